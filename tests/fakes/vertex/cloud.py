"""A project of Google Cloud's: its services, who may use them, and what goes wrong."""

import contextlib
import datetime
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.fakes.vertex.around import Around
from tests.fakes.vertex.identity import Identity
from tests.fakes.vertex.pipelines import Pipelines
from tests.fakes.vertex.rest import Host, Operations, RefusedError, Request, Response, answer
from tests.fakes.vertex.serving import Serving

PROJECT, NUMBER, REGION, BUCKET = "my-project", "123456789012", "us-central1", "films"
PLACE = f"projects/{NUMBER}/locations/{REGION}"
DEFAULT_ACCOUNT = f"{NUMBER}-compute@developer.gserviceaccount.com"
ACCOUNT = "runs@my-project.iam.gserviceaccount.com"
# What answers a request, by method, path, and the permission that is needed.
JOBS, SCHEDULES, ENDPOINTS, MODELS = (f"PLACE/{name}" for name in ("pipelineJobs", "schedules", "endpoints", "models"))
ROUTES = (
    ("POST", JOBS, "aiplatform.pipelineJobs.create", "pipelines.create_job"),
    ("GET", JOBS, "aiplatform.pipelineJobs.list", "pipelines.list_jobs"),
    ("GET", f"{JOBS}/NAME", "aiplatform.pipelineJobs.get", "pipelines.get_job"),
    ("POST", SCHEDULES, "aiplatform.schedules.create", "pipelines.create_schedule"),
    ("GET", SCHEDULES, "aiplatform.schedules.list", "pipelines.list_schedules"),
    ("PATCH", f"{SCHEDULES}/NAME", "aiplatform.schedules.update", "pipelines.update_schedule"),
    ("DELETE", f"{SCHEDULES}/NAME", "aiplatform.schedules.delete", "pipelines.delete_schedule"),
    ("POST", f"{SCHEDULES}/NAME:pause", "aiplatform.schedules.update", "pipelines.pause_schedule"),
    ("POST", f"{SCHEDULES}/NAME:resume", "aiplatform.schedules.update", "pipelines.resume_schedule"),
    ("GET", MODELS, "", "serving.list_models"),
    ("POST", f"{MODELS}:upload", "", "serving.upload"),
    ("POST", f"{MODELS}/NAME:mergeVersionAliases", "", "serving.merge_aliases"),
    ("GET", ENDPOINTS, "", "serving.list_endpoints"),
    ("POST", ENDPOINTS, "", "serving.create_endpoint"),
    ("GET", f"{ENDPOINTS}/NAME", "", "serving.get_endpoint"),
    ("PATCH", f"{ENDPOINTS}/NAME", "", "serving.update_endpoint"),
    ("DELETE", f"{ENDPOINTS}/NAME", "", "serving.delete_endpoint"),
    ("POST", f"{ENDPOINTS}/NAME:deployModel", "", "serving.deploy"),
    ("POST", f"{ENDPOINTS}/NAME:undeployModel", "aiplatform.endpoints.undeploy", "serving.undeploy"),
    ("POST", f"{ENDPOINTS}/NAME:predict", "", "serving.predict"),
    ("POST", "PLACE/customJobs", "", "serving.create_job"),
    ("GET", "PLACE/customJobs/NAME", "", "serving.get_job"),
    ("GET", "/v3/PROJECT", "resourcemanager.projects.get", "around.get_project"),
    ("POST", "/v3/PROJECT:testIamPermissions", "", "around.test_permissions"),
    ("GET", "/v1/PROJECT/services:batchGet", "serviceusage.services.get", "around.list_services"),
    (
        "GET",
        r"/v1beta1/PROJECT/services/aiplatform\.googleapis\.com/consumerQuotaMetrics/(?P<metric>[^/]+)",
        "serviceusage.quotas.get",
        "around.get_quota",
    ),
    ("GET", "/v1/projects/-/serviceAccounts/EMAIL", "iam.serviceAccounts.get", "around.get_account"),
    ("POST", "/v1/projects/-/serviceAccounts/EMAIL:testIamPermissions", "", "around.test_permissions"),
    ("GET", "/storage/v1/b/BUCKET", "", "around.get_bucket"),
    ("GET", "/storage/v1/b/BUCKET/iam/testPermissions", "", "around.test_permissions"),
    ("GET", "/storage/v1/b/BUCKET/o", "storage.objects.list", "around.list_objects"),
    ("GET", "/download/storage/v1/b/BUCKET/o/(?P<name>[^/]+)", "storage.objects.get", "around.read_object"),
    (
        "GET",
        r"/v1/projects/(?P<owner>[^/]+)/locations/(?P<place>[^/]+)/repositories/(?P<repository>[^/]+)/packages/(?P<rest>.*)",
        "artifactregistry.tags.get",
        "around.get_image",
    ),
    ("POST", "/v2/entries:list", "logging.logEntries.list", "around.list_entries"),
)
NAMES = {
    "PLACE": r"/v1(?:beta1)?/PROJECT/locations/(?P<region>[^/]+)",
    "PROJECT": r"projects/(?P<project>[^/:]+)",
    "NAME": r"(?P<name>[\w%-]+)",
    "EMAIL": "(?P<email>[^/:]+)",
    "BUCKET": "(?P<bucket>[^/]+)",
}
# What the user may do, besides all that a route needs.
GRANTED = (
    *("aiplatform.endpoints.delete", "storage.objects.create", "storage.objects.delete"),
    *("storage.buckets.get", "iam.serviceAccounts.actAs"),
)
Fault = Callable[[Request], Response | None]


class Cloud:
    """A project in which all is there; requests for tokens are only counted."""

    def __init__(self) -> None:
        self.identity, self.operations = Identity(), Operations()
        self.pipelines = Pipelines(PLACE, self._clock, self.operations)
        self.serving = Serving(PLACE, self._clock, self.operations)
        self.around = Around(PROJECT, NUMBER)
        self.around.granted = {permission for _, _, permission, _ in ROUTES} | set(GRANTED)
        self.around.buckets = {BUCKET: REGION.upper()}
        self.around.accounts = {DEFAULT_ACCOUNT: False, ACCOUNT: False}
        self.requests: list[Request] = []
        self.tokens = self._seconds = 0
        self._faults: list[tuple[re.Pattern[str], list[int], Fault]] = []
        self.host = Host(self._answer)

    @property
    def url(self) -> str:
        return self.host.url

    @property
    def changes(self) -> list[str]:
        """Method and path of the requests that change something; what only asks is posted, too."""
        sent = [f"{item.method} {item.path}" for item in self.requests if item.method != "GET"]
        return [item for item in sent if not item.endswith(("testIamPermissions", "entries:list"))]

    def _clock(self) -> datetime.datetime:
        self._seconds += 1
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(milliseconds=self._seconds)

    # What goes wrong, for requests whose method and target match `on`, so many times.

    def refuse(self, code: int, message: str, times: int = 1, on: str = "") -> None:
        self.say(lambda _: RefusedError(code, message).response(), times, on)

    def drop(self, times: int = 1, on: str = "") -> None:
        self.say(lambda _: None, times, on)

    def lose_answer(self, on: str) -> None:
        """Does what is asked, and drops the connection then."""

        def lose(request: Request) -> None:
            self._serve(request)

        self.say(lose, 1, on)

    def say(self, make: Fault, times: int = 1, on: str = "") -> None:
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
            if "/operations/" in request.path:  # below /v1/ for Google's launchers, below /ui/ for its clients
                return answer(self.operations.look(request.path[4:]))
            for method, path, permission, handler in ROUTES:
                for name, pattern in NAMES.items():
                    path = path.replace(name, pattern)
                if method == request.method and (parts := re.fullmatch(path, request.path)):
                    result = self._handle(request, permission, handler, parts.groupdict())
                    return result if isinstance(result, Response) else answer(result)
            raise RefusedError(404, f"Method not found: {request.method} {request.target}")
        except RefusedError as refused:
            return refused.response()

    def _handle(self, request: Request, permission: str, handler: str, names: dict[str, str]) -> Any:
        if (project := names.pop("project", PROJECT)) not in (PROJECT, NUMBER):
            raise RefusedError(403, f"Permission denied on resource project {project}.")
        if (region := names.pop("region", REGION)) != REGION:
            raise RefusedError(404, f"Location {region} is not found.")
        self.around.need(permission)
        service, _, method = handler.partition(".")
        return getattr(getattr(self, service), method)(request, **names)


@contextlib.contextmanager
def google_cloud() -> Iterator[Cloud]:
    """Starts a stand-in, and makes sure at the end that it has not broken."""
    cloud = Cloud()
    cloud.host.start()
    try:
        yield cloud
        assert not cloud.host.broken, cloud.host.broken
    finally:
        cloud.host.stop()
