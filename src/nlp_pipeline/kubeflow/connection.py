"""The connection to Kubeflow Pipelines: where its API is, who asks, and what each failure means.

It uses the API client that kfp is built on (`kfp_server_api`), not `kfp.Client`: that one reads and writes a file in
the home folder, takes a sign-in page for an answer, has no timeouts, and loses the namespace in some calls. Its
requests are sent by httpx, as those of the sign-in are: verified in the same way, by the same proxy.
"""

import json
import re
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx

from nlp_pipeline.deploy.cluster import POD_NAMESPACE
from nlp_pipeline.deploy.settings import DNS_NAME, LABEL
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.http import explain, explained, fetch, http_client, read_host
from nlp_pipeline.kubeflow.sign_in import Page, choose_sign_in
from nlp_pipeline.platforms.calls import ERRORS, TRANSIENT, make_once, once_per_settings
from nlp_pipeline.settings import Settings, redacted
from nlp_pipeline.storage import is_transient, retrying

TIMEOUT = 60.0
HEALTH = "/apis/v2beta1/healthz"
# Of these, KFP's API server or its user interface says at least one.
HEALTHY = {"multi_user", "commit_sha", "tag_name", "pipeline_store", "apiServerReady"}
EXPERIMENT_BYTES = 128
Call = Callable[..., Any]


class Connection:
    """A signed-in connection to Kubeflow Pipelines.

    Attributes:
        url: The API's address.
        health: What the API's server, or its user interface, says of itself.
        namespace: The user's namespace, in a pod its own unless set; empty where there is but one user.

    Raises:
        UsageError: The settings lead nowhere: there is no Kubeflow Pipelines, or it lets no one in by them.
        PipelineError: Kubeflow can't be reached, or it fails.
    """

    def __init__(self, settings: Settings) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import kfp_server_api  # type: ignore[import-untyped]

        self.settings = settings
        self.host = read_host(settings.host)
        self._http = http_client(settings)
        weakref.finalize(self, self._http.close)
        browser = partial(http_client, settings, follow_redirects=True, headers={"Accept": "text/html,*/*"})
        with explained(self.host):
            self.sign_in = choose_sign_in(settings, self.host, browser)
            self.url, self.health = self._find_api()
        self.multi_user = bool(self.health.get("multi_user"))
        self.namespace = settings.namespace or (pod_namespace() if self.multi_user else "")
        client = kfp_server_api.ApiClient(kfp_server_api.Configuration(host=self.url))
        client.rest_client.request = self._send
        self.runs = kfp_server_api.RunServiceApi(client)
        self.recurring_runs = kfp_server_api.RecurringRunServiceApi(client)
        self.pipelines = kfp_server_api.PipelineServiceApi(client)
        self.uploads = kfp_server_api.PipelineUploadServiceApi(client)
        self.experiments = kfp_server_api.ExperimentServiceApi(client)

    def _find_api(self) -> tuple[str, dict[str, Any]]:
        """Finds the API below the host, and its health: at /pipeline behind a gateway, at the root of KFP alone."""
        roots = [self.host] if self.host.endswith("/pipeline") else [f"{self.host}/pipeline", self.host]
        statuses = []
        for root in roots:
            answer = fetch(self._http, f"{root}{HEALTH}", headers={"Accept": "text/html,*/*", **self.sign_in.headers})
            if (health := _read_health(answer)) is not None:
                if health.get("apiServerReady") is False:
                    raise PipelineError(f"{self.host}: Kubeflow's API server is away; its user interface is there")
                return root, health
            to = answer.headers.get("location", "")
            if self.host.startswith("http:") and to == f"https:{root.removeprefix('http:')}{HEALTH}":
                raise UsageError(f"{self.host} leads to https: write https:// in --host")
            asks_for_password = answer.status_code == 200 and Page(answer).login_form is not None
            statuses.append(401 if asks_for_password else answer.status_code)
        where = f"{urlsplit(roots[0]).path}{HEALTH}"
        for status in sorted(statuses):
            if status in (401, 403) or 300 <= status < 400:
                raise self._signed_out("", status)
            if status in TRANSIENT:
                raise PipelineError(f"{self.host} fails: it answers {status} at {where}")
        raise UsageError(f"{self.host} is no Kubeflow Pipelines: it does not answer at {where}; check --host")

    def _send(
        self, method: str, url: str, query_params: Any = None, body: Any = None, post_params: Any = None, **_: Any
    ) -> SimpleNamespace:
        """Sends a request of the API's client, and returns what that looks at."""
        answer = self._http.request(
            method,
            url,
            params=query_params or None,
            headers={"Accept": "application/json", **self.sign_in.headers},
            json=body,
            files=post_params or None,
            timeout=TIMEOUT,
        )
        if not answer.is_success or _is_sign_in(answer):
            raise httpx.HTTPStatusError("", request=answer.request, response=answer)
        return SimpleNamespace(data=answer.content, getheader=answer.headers.get)

    def call(self, doing: str, method: Call, *values: Any, repeat: bool = True, **named: Any) -> Any:
        """Calls a method of one of the services with arguments; signs in again where the session has expired.

        Messages say what it was doing, as in "starting the run". Only what may be done twice is tried again, where it
        fails for a moment.

        Raises:
            NotFoundError: The API answers 404.
            ConflictError: It answers 409.
            UnansweredError: It does not answer in time, or what is in between says so (504).
            UsageError: The user may not do that, or is asked to sign in; or it is refused as wrong (400).
            PipelineError: Kubeflow can't be reached, or fails.
        """

        def attempt() -> Any:
            try:
                return method(*values, **named)
            except httpx.HTTPStatusError as error:
                renew = self.sign_in.renew
                if renew is None or not _is_sign_in(error.response):
                    raise
            with explained(self.host):
                self.sign_in = renew()
            return method(*values, **named)

        try:
            with explained(self.host):
                return retrying(may_pass=self._is_transient)(attempt)() if repeat else attempt()
        except httpx.HTTPStatusError as error:
            raise self._error(doing, error.response) from None

    def _is_transient(self, error: BaseException) -> bool:
        # A certificate that is not trusted will not be the next time.
        return is_transient(error) and not isinstance(explain(self.host, error), UsageError)

    def create(self, doing: str, method: Call, find: Call, *values: Any, unique: bool = False, **named: Any) -> Any:
        """Makes something by a method of one of the services, once; see `make_once`."""
        return make_once(doing, partial(self.call, doing, method, *values, repeat=False, **named), find, unique)

    def list_all(self, kind: str, **query: Any) -> Iterator[Any]:
        """Yields all of a kind, as "recurring_runs", page by page."""
        owner = kind.removesuffix("_versions").removesuffix("s")
        method = getattr(getattr(self, f"{owner}s"), f"{owner}_service_list_{kind}")
        token: str | None = ""
        while token is not None:
            doing = f"listing {kind.replace('_', ' ')}"
            answer = self.call(doing, method, page_token=token, **{"page_size": 100, **query})
            yield from getattr(answer, kind) or []
            token = answer.next_page_token or None

    def find(self, kind: str, name: str, **query: Any) -> Any:
        """Returns what is of a kind and has a display name; None where there is none."""
        return next((item for item in self.list_all(kind, **query) if item.display_name == name), None)

    def ensure(self, kind: str, body: Any) -> Any:
        """Returns what is of a kind and has a body's display name in the namespace; made where there is none."""
        owner, name, body.namespace = kind.removesuffix("s"), body.display_name, self.namespace or None
        find = partial(self.find, kind, name, namespace=self.namespace)
        method = getattr(getattr(self, kind), f"{owner}_service_create_{owner}")
        return find() or self.create(f"making {owner} {name}", method, find, body, unique=True)

    def read_text(self, path: str, query: dict[str, str]) -> str:
        """Returns a text that Kubeflow's user interface has, as a pod's log; empty where it can't be had."""
        try:
            answer = self._http.get(f"{self.url}{path}", params=query, headers=self.sign_in.headers)
        except httpx.HTTPError:
            return ""
        is_page = "html" in answer.headers.get("content-type", "")
        return "" if is_page or answer.status_code != 200 else answer.text

    def run_url(self, run_id: str) -> str:
        """Returns the address at which the dashboard shows a run."""
        if self.multi_user:
            root = self.host.removesuffix("/pipeline")
            return f"{root}/_/pipeline/?ns={self.namespace}#/runs/details/{run_id}"
        return f"{self.url}/#/runs/details/{run_id}"

    def _signed_out(self, doing: str, status: int) -> UsageError:
        return UsageError(f"{doing}{self.host} lets no one in {self.sign_in.how} ({status}): {self.sign_in.advice}")

    def _error(self, doing: str, answer: httpx.Response) -> PipelineError:
        status, text = answer.status_code, answer.text
        if _is_sign_in(answer):
            return self._signed_out(f"{doing}: ", status)
        message = _message_of(text)
        text = message or ("a page, not an answer" if text.lstrip().startswith("<") else text)
        # Cut only then, or else half a secret would be left.
        text = redacted(self.settings, " ".join(text.split()), *self.sign_in.headers.values())[:400]
        hint = f"; is --namespace {self.namespace!r} yours?" if status == 403 and self.namespace else ""
        # A gateway's 404 means that the server is away.
        kind = PipelineError if status == 404 and not message else ERRORS.get(status, PipelineError)
        return kind(f"{doing}: {status}: {text}".rstrip(": ") + hint)


def pod_namespace() -> str:
    """Returns the namespace of this pod; empty outside of one."""
    return POD_NAMESPACE.read_text(encoding="utf-8").strip() if POD_NAMESPACE.exists() else ""


def _is_sign_in(answer: httpx.Response) -> bool:
    """Says whether an answer of the API is none, but asks for a sign-in: an oauth2-proxy may do so by a page."""
    if answer.status_code == 403:
        return answer.text.lstrip().startswith("<")
    is_page = answer.is_success and "json" not in answer.headers.get("content-type", "")
    return is_page or answer.is_redirect or answer.status_code == 401


def _message_of(text: str) -> str:
    """Returns what an error of KFP's API says; empty where the text is none."""
    try:
        answer = json.loads(text)
        details = answer.get("details") or [{}]
        return str(details[0].get("message") or answer.get("message") or answer.get("error_message") or "")
    except (ValueError, AttributeError, LookupError, TypeError):
        return ""


def _read_health(answer: httpx.Response) -> dict[str, Any] | None:
    """Returns what Kubeflow Pipelines says of itself; None where it is not it that has answered."""
    try:
        health = answer.json() if answer.status_code == 200 else None
    except ValueError:  # a page
        return None
    # The API server leaves out what is false.
    return health if isinstance(health, dict) and (not health or HEALTHY & set(health)) else None


def check_names(settings: Settings) -> None:
    """Raises UsageError where Kubernetes or KFP would refuse one of the settings' names."""
    known = {"namespace": (LABEL, "namespace"), "service_account": (DNS_NAME, "ServiceAccount")}
    for name, (pattern, kind) in known.items():
        if not re.fullmatch(f"|{pattern}", value := getattr(settings, name), re.ASCII):
            raise UsageError(f"{name} is {value[:80]!r}: it must be the name of a {kind}")
    # KFP's backend/src/apiserver/validation/length.go: bytes, not letters.
    if not settings.experiment.strip() or len(settings.experiment.encode()) > EXPERIMENT_BYTES:
        raise UsageError(
            f"experiment is {settings.experiment[:80]!r}: give a name of at most {EXPERIMENT_BYTES} letters (in UTF-8)"
        )


@once_per_settings
def connect(settings: Settings) -> Connection:
    """Returns a connection, and says on stderr how it signed in."""
    check_names(settings)
    if settings.insecure:
        print("--insecure: the server's certificate is not verified; who is in between can read all", file=sys.stderr)
    connection = Connection(settings)
    if connection.multi_user and not connection.namespace:
        raise UsageError("this Kubeflow has several users: give --namespace NAME, the namespace of your profile")
    print(f"{connection.host}, {connection.sign_in.how}", file=sys.stderr)
    return connection
