"""The connection to Kubeflow Pipelines: where its API is, who asks, and what each failure means.

It uses the API client that kfp is built on (`kfp_server_api`), not `kfp.Client`: that one reads and writes a file in
the home folder, takes a sign-in page for an answer, has no timeouts, and loses the namespace in some calls.
"""

import json
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from nlp_pipeline.client.sign_in import SignIn, choose_sign_in
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import Settings

TIMEOUT = 60.0
SIGNED_OUT = (301, 302, 303, 307, 401)
WAITS = (0.5, 1.0, 2.0, 4.0, None)


class NotFoundError(PipelineError):
    """What was asked for is not there."""


class ConflictError(PipelineError):
    """What was to be made is there already."""


def tls_context(settings: Settings) -> ssl.SSLContext | bool:
    """Returns how servers are verified: by the system's authorities, a file's, or, where told so, not at all.

    Raises:
        UsageError: The file can't be read.
    """
    if settings.insecure:
        return False
    if not settings.ca_cert:
        return True
    try:
        return ssl.create_default_context(cafile=settings.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca_cert={settings.ca_cert} can't be read as certificates in PEM form ({error})") from None


def explain(host: str, error: Exception) -> PipelineError:
    """Returns what to tell of a host that can't be reached.

    Args:
        host: Its address.
        error: What httpx or urllib3 raised.
    """
    told = " ".join(str(getattr(error, "reason", None) or error).split())
    where = urlsplit(host).netloc
    if "CERTIFICATE_VERIFY_FAILED" in told or "certificate verify failed" in told:
        why = told.partition("certificate verify failed:")[2].partition("(")[0].strip() or "it is not trusted"
        return UsageError(f"{where}: its certificate can't be verified ({why}): give its authority with --ca-cert FILE")
    if "Name or service not known" in told or "name resolution" in told or "nodename nor servname" in told:
        return UsageError(f"{where}: there is no such host; check --host {host}")
    if "WRONG_VERSION_NUMBER" in told or "wrong version number" in told:
        return UsageError(f"{where} does not speak TLS: write http:// in --host {host}")
    return PipelineError(f"{where} can't be reached: {told or type(error).__name__}")


class Connection:
    """A signed-in connection to Kubeflow Pipelines.

    Args:
        settings: The settings.

    Attributes:
        host: Kubeflow's address, as it was given.
        url: The API's address.
        namespace: The user's namespace; empty where there is but one user.
        multi_user: Whether Kubeflow has several users.
        sign_in: How requests are signed in.

    Raises:
        UsageError: The settings lead nowhere.
        PipelineError: Kubeflow can't be reached, or it lets no one in.
    """

    def __init__(self, settings: Settings) -> None:
        import kfp_server_api  # type: ignore[import-untyped]

        if not settings.host:
            raise UsageError("no host: give --host URL, set NLP_PIPELINE_HOST, or write host into .env")
        if not settings.host.startswith(("http://", "https://")) or not urlsplit(settings.host).netloc:
            raise UsageError(f"--host {settings.host} is no address: write https://kubeflow.example.com")
        self.host = settings.host.rstrip("/")
        self._settings = settings
        self._verify = tls_context(settings)
        try:
            self.sign_in = choose_sign_in(settings, self._browser)
            self.url, self.multi_user = self._find_api()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise explain(self.host, error) from None
        self.namespace = settings.namespace
        if self.multi_user and not self.namespace:
            raise UsageError("this Kubeflow has several users: give --namespace NAME, the namespace of your profile")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            configuration = kfp_server_api.Configuration(host=self.url)
        configuration.verify_ssl = not settings.insecure
        configuration.ssl_ca_cert = settings.ca_cert or None
        configuration.retries = False  # the client's own would repeat what was done, and hide it
        self._client = kfp_server_api.ApiClient(configuration)
        self._client.default_headers.update(self.sign_in.headers)
        self._api_exception = kfp_server_api.ApiException
        self.runs = kfp_server_api.RunServiceApi(self._client)
        self.recurring_runs = kfp_server_api.RecurringRunServiceApi(self._client)
        self.pipelines = kfp_server_api.PipelineServiceApi(self._client)
        self.uploads = kfp_server_api.PipelineUploadServiceApi(self._client)
        self.experiments = kfp_server_api.ExperimentServiceApi(self._client)

    def _browser(self) -> httpx.Client:
        return httpx.Client(
            follow_redirects=True,
            verify=self._verify,
            timeout=30,
            headers={"Accept": "text/html,*/*"},
            # A host on this machine is not reached by a proxy.
            trust_env=urlsplit(self.host).hostname not in ("localhost", "127.0.0.1", "::1"),
        )

    def _find_api(self) -> tuple[str, bool]:
        """Finds the API below the host: at /pipeline behind Kubeflow's gateway, at the root of KFP alone."""
        roots = [self.host] if self.host.endswith("/pipeline") else [f"{self.host}/pipeline", self.host]
        refused = ""
        with self._browser() as client:
            client.follow_redirects = False
            for root in roots:
                answer = client.get(f"{root}/apis/v2beta1/healthz", headers=self.sign_in.headers)
                try:
                    if answer.status_code == 200 and isinstance(health := answer.json(), dict):
                        return root, bool(health.get("multi_user"))
                except ValueError:  # a page
                    pass
                if answer.status_code in (*SIGNED_OUT, 403):
                    refused = refused or f"{answer.status_code}"
        if refused:
            raise UsageError(f"{self.host} lets no one in {self.sign_in.how} ({refused}): {self._advice()}")
        raise UsageError(
            f"{self.host} is no Kubeflow Pipelines: it does not answer at /pipeline/apis/v2beta1/healthz; check --host"
        )

    def _advice(self) -> str:
        """Returns what to do where the server does not let the user in."""
        if "without" in self.sign_in.how:
            return (
                "set NLP_PIPELINE_TOKEN (kubectl -n PROFILE create token default-editor), or --username with "
                "NLP_PIPELINE_PASSWORD"
            )
        if "token" in self.sign_in.how:
            return (
                "is the token meant for this cluster, and still valid? kubectl -n PROFILE create token default-editor"
            )
        return "has the session expired? sign in anew"

    def call(self, doing: str, method: Callable[..., Any], *values: Any, repeat: bool = True, **named: Any) -> Any:
        """Calls the API.

        Args:
            doing: What is done, for messages, as in "starting the run".
            method: A method of one of the services.
            *values: Its arguments.
            repeat: Whether it may be done twice: what fails in between is tried again only then.
            **named: Its named arguments.

        Returns:
            What it returned.

        Raises:
            NotFoundError, ConflictError: 404, 409.
            UsageError: The user may not do that, or it is refused as wrong.
            PipelineError: Kubeflow can't be reached, or fails.
        """
        import urllib3

        renewed = False
        for wait in WAITS:
            try:
                answer = method(*values, _request_timeout=TIMEOUT, **named)
                # The client makes an empty answer of a sign-in page.
                if "json" in (self._client.last_response.getheader("Content-Type") or ""):
                    return answer
                raise self._api_exception(status=302, reason="a page")
            except self._api_exception as error:
                status = error.status or 0
                if status in SIGNED_OUT and self.sign_in.renew and not renewed:
                    renewed = True
                    self._sign_in_again(self.sign_in.renew)
                    continue
                transient = status in (0, 429, 500, 502, 503, 504) and repeat
                if wait is None or not transient:
                    raise self._error(doing, status, error.body) from None
            except urllib3.exceptions.HTTPError as error:
                if wait is None or not repeat:
                    raise explain(self.host, error) from None
            time.sleep(wait or 0)
        raise AssertionError("unreachable")

    def create(
        self, doing: str, method: Callable[..., Any], find: Callable[[], Any], *values: Any, **named: Any
    ) -> Any:
        """Makes something, once: where an answer is lost, it is looked for before it is made again.

        Args:
            doing: What is made, for messages.
            method: A method of one of the services.
            find: Looks for it; returns None where it is not there.
            *values: The method's arguments.
            **named: Its named arguments.

        Returns:
            What the method or `find` returned.

        Raises:
            PipelineError: See `call`.
        """
        for wait in WAITS:
            try:
                return self.call(doing, method, *values, repeat=False, **named)
            except (UsageError, NotFoundError):
                raise
            except PipelineError as error:
                found = find()
                if found is not None:
                    return found
                if wait is None or isinstance(error, ConflictError):
                    raise
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _sign_in_again(self, renew: Callable[[], SignIn]) -> None:
        try:
            self.sign_in = renew()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise explain(self.host, error) from None
        self._client.default_headers.update(self.sign_in.headers)

    def _error(self, doing: str, status: int, body: Any) -> PipelineError:
        """Returns what to raise for an answer of the API."""
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
        try:
            told = json.loads(text)
            details = told.get("details") or [{}]
            text = details[0].get("message") or told.get("message") or told.get("error_message") or text
        except (ValueError, AttributeError, LookupError, TypeError):
            text = "a page, not an answer" if text.lstrip().startswith("<") else text
        line = f"{doing}: {status}: {' '.join(text.split())[:400]}"
        if status in SIGNED_OUT:
            return UsageError(f"{doing}: Kubeflow lets no one in {self.sign_in.how} ({status}): {self._advice()}")
        kinds: dict[int, type[PipelineError]] = {
            400: UsageError,
            403: UsageError,
            404: NotFoundError,
            409: ConflictError,
        }
        return kinds.get(status, PipelineError)(line)

    def text(self, path: str, query: dict[str, str]) -> str:
        """Returns a text that Kubeflow's user interface has, as a pod's log; empty where it can't be had."""
        try:
            with self._browser() as client:
                client.follow_redirects = False
                answer = client.get(f"{self.url}{path}", params=query, headers=self.sign_in.headers)
        except httpx.HTTPError:
            return ""
        is_page = "html" in answer.headers.get("content-type", "")
        return "" if is_page or answer.status_code != 200 else answer.text

    def every(self, doing: str, method: Callable[..., Any], field: str, **named: Any) -> Iterator[Any]:
        """Lists all of something, page by page.

        Args:
            doing: What is listed, for messages.
            method: A list method of one of the services.
            field: Where its answer has the items.
            **named: Its arguments.

        Yields:
            The items.
        """
        token = ""
        while True:
            answer = self.call(doing, method, page_token=token, page_size=100, **named)
            yield from getattr(answer, field) or []
            token = answer.next_page_token or ""
            if not token:
                return
