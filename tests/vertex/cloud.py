"""A stand-in for Google Cloud over HTTP: it reads requests as Google's own messages, and answers as Google would.

All of its services are at one address, which NLP_PIPELINE_VERTEX_ENDPOINT leads to; so is the server that gives tokens.
"""

import contextlib
import datetime
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.fakes.httpd import Host, Request, Response
from tests.vertex.around import Around
from tests.vertex.identity import Identity
from tests.vertex.pipelines import Pipelines
from tests.vertex.rest import Operations, RefusedError, answer
from tests.vertex.serving import Serving

PROJECT, NUMBER, REGION = "my-project", "123456789012", "us-central1"
PLACE = f"projects/{NUMBER}/locations/{REGION}"
BUCKET = "films"
DEFAULT_ACCOUNT = f"{NUMBER}-compute@developer.gserviceaccount.com"
Fault = Callable[[Request], Response | None]


class Cloud:
    """A project in which all is there.

    Attributes:
        identity: Who may sign in.
        operations, pipelines, serving, around: Its services.
        requests: All requests but those for tokens.
        tokens: How many requests for tokens there were.
    """

    def __init__(self) -> None:
        self.identity = Identity()
        self.operations = Operations()
        self.pipelines = Pipelines(PLACE, self._clock, self.operations)
        self.serving = Serving(PLACE, self._clock, self.operations)
        self.around = Around(PROJECT, NUMBER)
        self.requests: list[Request] = []
        self.tokens = 0
        self._seconds = 0
        self._faults: list[tuple[re.Pattern[str], list[int], Fault]] = []
        self._host = Host(self._answer)
        self.pipelines.accounts = {"runs@my-project.iam.gserviceaccount.com"}
        around = self.around
        around.granted = {
            *(f"aiplatform.{one}" for one in ("pipelineJobs.create", "pipelineJobs.get", "pipelineJobs.list")),
            *(f"aiplatform.{one}" for one in ("schedules.create", "schedules.list", "schedules.update")),
            *(f"aiplatform.{one}" for one in ("schedules.delete", "endpoints.undeploy", "endpoints.delete")),
            *(f"storage.objects.{one}" for one in ("create", "get", "list", "delete")),
            *("storage.buckets.get", "resourcemanager.projects.get", "serviceusage.services.get"),
            *("serviceusage.quotas.get", "iam.serviceAccounts.get", "iam.serviceAccounts.actAs"),
            *("artifactregistry.tags.get", "logging.logEntries.list"),
        }
        around.enabled = {"aiplatform", "storage", "artifactregistry", "iam", "compute"}
        around.buckets = {BUCKET: REGION.upper()}
        around.accounts = {DEFAULT_ACCOUNT: False, "runs@my-project.iam.gserviceaccount.com": False}

    @property
    def url(self) -> str:
        """Its address."""
        return self._host.url

    @property
    def changes(self) -> list[str]:
        """Method and path of the requests that change something; what only asks is posted, too."""
        asks = ("testIamPermissions", "entries:list")
        sent = [f"{one.method} {one.path}" for one in self.requests if one.method != "GET"]
        return [one for one in sent if not one.endswith(asks)]

    def start(self) -> None:
        """Serves, at first on any free port, then again on the same."""
        self._host.start()

    def stop(self) -> None:
        """Goes away."""
        self._host.stop()

    def check(self) -> None:
        """Makes sure that the stand-in has not broken."""
        assert not self._host.broken, self._host.broken

    def _clock(self) -> datetime.datetime:
        self._seconds += 1
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(milliseconds=self._seconds)

    # What goes wrong, for requests whose method and target match `on`, so many times.

    def refuse(
        self, code: int, message: str = "no", times: int = 1, on: str = "", reason: str = "", **about: str
    ) -> None:
        """Answers with an error of Google's."""
        self._add(on, times, lambda _: RefusedError(code, message, reason, about).response())

    def drop(self, times: int = 1, on: str = "") -> None:
        """Drops the connection."""
        self._add(on, times, lambda _: None)

    def lose_answer(self, times: int = 1, on: str = "") -> None:
        """Does what is asked, and drops the connection then."""

        def lose(request: Request) -> None:
            self._serve(request)

        self._add(on, times, lose)

    def say(self, make: Fault, times: int = 1, on: str = "") -> None:
        """Answers in whatever way."""
        self._add(on, times, make)

    def well_again(self) -> None:
        """Lets nothing go wrong any more."""
        self._faults.clear()

    def _add(self, on: str, times: int, make: Fault) -> None:
        self._faults.append((re.compile(on), [times], make))

    def _answer(self, request: Request) -> Response | None:
        if request.path == "/token":
            self.tokens += 1
        else:
            self.requests.append(request)
        for on, left, make in self._faults:
            if left[0] > 0 and on.search(f"{request.method} {request.target}"):
                left[0] -= 1
                return make(request)
        return self._serve(request)

    def _serve(self, request: Request) -> Response:
        if request.path == "/token":
            return self.identity.give_token(request)
        try:
            if not self.identity.knows(request):
                raise RefusedError(401, "Request had invalid authentication credentials.")
            for method, path, permission, handle in self._routes():
                parts = re.fullmatch(path, request.path)
                if parts and method == request.method:
                    self._check_place(parts.groupdict())
                    if permission:
                        self.around.need(permission)
                    names = {
                        name: value for name, value in parts.groupdict().items() if name not in ("project", "region")
                    }
                    found = handle(request, **names)
                    return found if isinstance(found, Response) else answer(found)
            raise RefusedError(404, f"Method not found: {request.method} {request.target}")
        except RefusedError as refused:
            return refused.response()

    @staticmethod
    def _check_place(names: dict[str, str]) -> None:
        """Makes sure that what is asked for is in this project and region."""
        project = names.get("project", PROJECT)
        if project not in (PROJECT, NUMBER):
            raise RefusedError(403, f"Permission denied on resource project {project}.", "CONSUMER_INVALID")
        if names.get("region", REGION) != REGION:
            raise RefusedError(404, f"Location {names['region']} is not found.")

    def _routes(self) -> list[tuple[str, str, str, Callable[..., Any]]]:
        """Returns method, path, the permission that is needed, and what answers."""
        place = r"/v1/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)"
        jobs, schedules = f"{place}/pipelineJobs", f"{place}/schedules"
        endpoints, one = f"{place}/endpoints", r"/(?P<name>[\w-]+)"
        of_project = r"projects/(?P<project>[^/:]+)"
        account = r"/v1/projects/-/serviceAccounts/(?P<email>[^/:]+)"
        bucket = r"/storage/v1/b/(?P<bucket>[^/]+)"
        repository = r"/v1/projects/(?P<owner>[^/]+)/locations/(?P<place>[^/]+)/repositories/(?P<repository>[^/]+)"
        quota = r"services/aiplatform\.googleapis\.com/consumerQuotaMetrics/(?P<metric>[^/]+)"
        pipelines, serving, around = self.pipelines, self.serving, self.around
        return [
            ("POST", jobs, "aiplatform.pipelineJobs.create", pipelines.create_job),
            ("GET", jobs, "aiplatform.pipelineJobs.list", pipelines.list_jobs),
            ("GET", jobs + one, "aiplatform.pipelineJobs.get", pipelines.get_job),
            ("POST", jobs + one + ":cancel", "", pipelines.cancel_job),
            ("POST", schedules, "aiplatform.schedules.create", pipelines.create_schedule),
            ("GET", schedules, "aiplatform.schedules.list", pipelines.list_schedules),
            ("GET", schedules + one, "", pipelines.get_schedule),
            ("PATCH", schedules + one, "aiplatform.schedules.update", pipelines.update_schedule),
            ("DELETE", schedules + one, "aiplatform.schedules.delete", pipelines.delete_schedule),
            ("POST", schedules + one + ":pause", "aiplatform.schedules.update", pipelines.pause_schedule),
            ("POST", schedules + one + ":resume", "aiplatform.schedules.update", pipelines.resume_schedule),
            ("GET", f"{place}/models", "", serving.list_models),
            ("GET", f"{place}/models{one}:listVersions", "", serving.list_versions),
            ("GET", endpoints, "", serving.list_endpoints),
            ("GET", endpoints + one, "", serving.get_endpoint),
            ("PATCH", endpoints + one, "", serving.update_endpoint),
            ("POST", endpoints + one + ":undeployModel", "aiplatform.endpoints.undeploy", serving.undeploy),
            ("DELETE", endpoints + one, "aiplatform.endpoints.delete", serving.delete_endpoint),
            ("GET", r"/ui/projects/.*/operations/[0-9]+", "", lambda request: self.operations.look(request.path[4:])),
            ("GET", f"/v3/{of_project}", "", around.get_project),
            ("POST", f"/v3/{of_project}:testIamPermissions", "", around.test_permissions),
            ("GET", f"/v1/{of_project}/services:batchGet", "", around.list_services),
            ("GET", f"/v1beta1/{of_project}/{quota}", "", around.get_quota),
            ("GET", account, "", around.get_account),
            ("POST", account + ":testIamPermissions", "", around.test_permissions),
            ("GET", bucket, "", around.get_bucket),
            ("GET", bucket + "/iam/testPermissions", "", around.test_permissions),
            ("GET", bucket + "/o", "", around.list_objects),
            ("GET", r"/download/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)", "", around.read_object),
            ("GET", repository + r"/packages/(?P<rest>[^/]+/.*)", "", around.get_image),
            ("POST", "/v2/entries:list", "", around.list_entries),
        ]


@contextlib.contextmanager
def google_cloud() -> Iterator[Cloud]:
    """Starts a stand-in, and makes sure at the end that it has not broken."""
    cloud = Cloud()
    cloud.start()
    try:
        yield cloud
        cloud.check()
    finally:
        cloud.stop()
