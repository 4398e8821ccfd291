"""The connection to Kubeflow Pipelines: where its API is, who asks, and what each failure means.

It uses the API client that kfp is built on (`kfp_server_api`), not `kfp.Client`: that one reads and writes a file in
the home folder, takes a sign-in page for an answer, has no timeouts, and loses the namespace in some calls.
"""

import json
import re
import ssl
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

from nlp_pipeline.client.calls import ConflictError, NotFoundError, UnansweredError, make_once
from nlp_pipeline.client.pages import Page
from nlp_pipeline.client.sign_in import TRANSIENT, SignIn, choose_sign_in, fetch
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import Settings, checked_address, redacted

TIMEOUT = 60.0
SIGNED_OUT = (301, 302, 303, 307, 308, 401)
WAITS = (0.5, 1.0, 2.0, 4.0, None)
HEALTH = "/apis/v2beta1/healthz"
# Of these, KFP's API server or its user interface says at least one.
HEALTHY = {"multi_user", "commit_sha", "tag_name", "pipeline_store", "apiServerReady"}
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@cache
def known_authorities() -> ssl.SSLContext:
    """Returns how servers are verified by Mozilla's list, or SSL_CERT_FILE, and the system's authorities."""
    context = httpx.create_ssl_context()
    context.load_default_certs()  # a company puts its own there
    return context


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Returns how servers are verified: by the known authorities, a file's, or, where told so, not at all.

    Raises:
        UsageError: The file can't be read.
    """
    if settings.insecure:
        return httpx.create_ssl_context(verify=False)
    if not settings.ca_cert:
        return known_authorities()
    try:
        return ssl.create_default_context(cafile=settings.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca_cert={settings.ca_cert} can't be read as certificates in PEM form ({error})") from None


def read_host(host: str) -> str:
    """Returns Kubeflow's address without what a browser adds to it, as in https://host/_/pipeline/?ns=team#/runs.

    Args:
        host: The address, as it was given.

    Raises:
        UsageError: It is none.
    """
    if not host:
        raise UsageError("no host: give --host URL, set NLP_PIPELINE_HOST, or write host into .env")
    checked_address("host", host)
    try:
        parts = urlsplit(host)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
        httpx.URL(host)
    except (ValueError, httpx.InvalidURL):
        raise UsageError(f"--host {host} is no address: write https://kubeflow.example.com") from None
    path = parts.path.partition("/_/")[0].removesuffix("/_").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def explain(host: str, error: Exception) -> PipelineError:
    """Returns what to tell of a host that can't be reached.

    Args:
        host: Its address.
        error: What httpx or urllib3 raised.
    """
    import urllib3

    # urllib3 tells both what it did and why that failed.
    reason = error.args[1] if isinstance(error, urllib3.exceptions.ProtocolError) and len(error.args) > 1 else error
    told = " ".join(str(getattr(error, "reason", None) or reason).split())
    where = urlsplit(host).netloc
    if "CERTIFICATE_VERIFY_FAILED" in told or "certificate verify failed" in told:
        why = told.partition("certificate verify failed:")[2].partition("(")[0].strip(" .") or "it is not trusted"
        advice = "give its authority with --ca-cert FILE"
        if "expired" in why:
            advice = "it must be renewed"
        elif "mismatch" in why:
            advice = "use the name in --host that it is for"
        return UsageError(f"{where}: its certificate can't be verified ({why}): {advice}")
    if any(one in told for one in ("Name or service not known", "nodename nor servname", "No address associated")):
        return UsageError(f"{where}: there is no such host; check --host {host}")
    if "name resolution" in told:
        return PipelineError(f"{where}: its name can't be looked up now; check --host {host}, and your network")
    if "WRONG_VERSION_NUMBER" in told or "wrong version number" in told:
        return UsageError(f"{where} does not speak TLS: write http:// in --host {host}")
    if isinstance(error, urllib3.exceptions.ReadTimeoutError | httpx.ReadTimeout):
        return UnansweredError(f"{where} does not answer in time")
    if isinstance(error, httpx.RemoteProtocolError) and host.startswith("http:"):
        told = f"{told.rstrip('.')}; if it speaks TLS, write https:// in --host"
    return PipelineError(f"{where} can't be reached: {told or type(error).__name__}")


def proxy_of(host: str) -> str | None:
    """Returns the proxy that the environment names for a host; this machine is reached without any.

    Raises:
        UsageError: It is of a kind that can't be used.
    """
    parts = urlsplit(host)
    if parts.hostname in THIS_MACHINE or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if proxy and not re.fullmatch(r"https?://[^/\s]+/?", proxy):
        raise UsageError(f"the proxy for {parts.netloc} in the environment is no http:// or https:// address")
    return proxy or None


def read_health(answer: httpx.Response) -> dict[str, Any] | None:
    """Returns what Kubeflow Pipelines says of itself; None where it is not it that has answered."""
    try:
        health = answer.json() if answer.status_code == 200 else None
    except ValueError:  # a page
        return None
    # The API server leaves out what is false.
    return health if isinstance(health, dict) and (not health or HEALTHY & set(health)) else None


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

        self.host = read_host(settings.host)
        self._settings = settings
        self._tls = tls_context(settings)
        self._proxy = proxy_of(self.host)
        try:
            self.sign_in = choose_sign_in(settings, self.host, self._browser)
            self.url, self.multi_user = self._find_api()
        except httpx.InvalidURL as error:
            raise UsageError(f"--host {self.host} is no address ({error})") from None
        except httpx.HTTPError as error:
            raise explain(self.host, error) from None
        self.namespace = settings.namespace
        if self.multi_user and not self.namespace:
            raise UsageError("this Kubeflow has several users: give --namespace NAME, the namespace of your profile")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._client = kfp_server_api.ApiClient(kfp_server_api.Configuration(host=self.url))
        self._client.default_headers.update(self.sign_in.headers)
        self._api_exception = kfp_server_api.ApiException
        self._prepare_sending()
        self.runs = kfp_server_api.RunServiceApi(self._client)
        self.recurring_runs = kfp_server_api.RecurringRunServiceApi(self._client)
        self.pipelines = kfp_server_api.PipelineServiceApi(self._client)
        self.uploads = kfp_server_api.PipelineUploadServiceApi(self._client)
        self.experiments = kfp_server_api.ExperimentServiceApi(self._client)

    def _prepare_sending(self) -> None:
        """Has the API's client send as the sign-in does: verified in the same way, by the same proxy."""
        import urllib3

        if self._settings.insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # that has been said, and once
        # The client's own repetitions would repeat what was done, and hide it.
        options: dict[str, Any] = {"ssl_context": self._tls, "retries": False, "maxsize": 4}
        rest = self._client.rest_client
        if self._proxy:
            user = urlsplit(self._proxy)
            if user.username:
                login = f"{unquote(user.username)}:{unquote(user.password or '')}"
                options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=login)
            rest.pool_manager = urllib3.ProxyManager(self._proxy, **options)
        else:
            rest.pool_manager = urllib3.PoolManager(**options)
        rest.request = partial(self._send, rest.request)

    def _send(self, send: Callable[..., Any], *values: Any, **named: Any) -> Any:
        """Sends a request; raises also what the API's client would take for an answer, or stumble over."""
        try:
            answer = send(*values, **named)
        except self._api_exception as error:
            if not error.status and error.__context__ is not None:
                raise error.__context__ from None  # a failure of TLS
            error.body = (error.body or b"").decode("utf-8", "replace").encode()
            raise
        # The client makes an empty answer of a sign-in page.
        if "json" not in (answer.getheader("Content-Type") or ""):
            page = self._api_exception(status=302, reason="a page")
            page.body = b""
            raise page
        return answer

    def _browser(self) -> httpx.Client:
        return httpx.Client(
            follow_redirects=True,
            verify=self._tls,
            timeout=30,
            headers={"Accept": "text/html,*/*"},
            proxy=self._proxy,
            trust_env=False,
        )

    def _find_api(self) -> tuple[str, bool]:
        """Finds the API below the host: at /pipeline behind Kubeflow's gateway, at the root of KFP alone."""
        roots = [self.host] if self.host.endswith("/pipeline") else [f"{self.host}/pipeline", self.host]
        statuses = []
        with self._browser() as client:
            client.follow_redirects = False
            for root in roots:
                answer = fetch(client, f"{root}{HEALTH}", headers=self.sign_in.headers)
                if (health := read_health(answer)) is not None:
                    if health.get("apiServerReady") is False:
                        raise PipelineError(f"{self.host}: Kubeflow's API server is away; its user interface is there")
                    return root, bool(health.get("multi_user"))
                to = answer.headers.get("location", "")
                if self.host.startswith("http:") and to == f"https:{root.removeprefix('http:')}{HEALTH}":
                    raise UsageError(f"{self.host} leads to https: write https:// in --host")
                page = Page(root, answer.text)
                signs_in = answer.status_code == 200 and any(form.field_of("password") for form in page.forms)
                statuses.append(401 if signs_in else answer.status_code)
        for status in statuses:
            if status in (*SIGNED_OUT, 403):
                raise self._signed_out("", status)
        if failed := next((status for status in statuses if status in TRANSIENT), 0):
            raise PipelineError(f"{self.host} fails: it answers {failed} at {urlsplit(roots[0]).path}{HEALTH}")
        raise UsageError(
            f"{self.host} is no Kubeflow Pipelines: it does not answer at {urlsplit(roots[0]).path}{HEALTH}; check "
            "--host"
        )

    def _signed_out(self, doing: str, status: int) -> UsageError:
        """Returns what to raise where the server does not let the user in."""
        return UsageError(f"{doing}{self.host} lets no one in {self.sign_in.how} ({status}): {self._advice()}")

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
        if "cookies" in self.sign_in.how:
            return "has the browser's session expired? sign in there anew, and set NLP_PIPELINE_COOKIES"
        return "may this user use Kubeflow Pipelines?"

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
        waits = iter(WAITS if repeat else (None,))
        while True:
            try:
                # For connecting and for reading; a number alone that isn't whole is silently no limit.
                return method(*values, _request_timeout=(TIMEOUT, TIMEOUT), **named)
            except self._api_exception as error:
                if self._is_signed_out(error) and self.sign_in.renew and not renewed:
                    renewed = True
                    self._sign_in_again(self.sign_in.renew)
                    continue
                failed, transient = self._error(doing, error), error.status in TRANSIENT
            except urllib3.exceptions.HTTPError as error:
                failed = explain(self.host, error)
                transient = not isinstance(failed, UsageError)
            wait = next(waits) if transient else None
            if wait is None:
                raise failed
            time.sleep(wait)

    def create(
        self,
        doing: str,
        method: Callable[..., Any],
        find: Callable[[], Any],
        *values: Any,
        unique: bool = False,
        **named: Any,
    ) -> Any:
        """Makes something, once: where an answer is lost, it is looked for before it is made again.

        Args:
            doing: What is made, for messages.
            method: A method of one of the services.
            find: Looks for it; returns None where it is not there.
            *values: The method's arguments.
            unique: Whether there can't be two of its name.
            **named: Its named arguments.

        Returns:
            What the method or `find` returned.

        Raises:
            PipelineError: See `call` and `make_once`.
        """
        send = partial(self.call, doing, method, *values, repeat=False, **named)
        return make_once(doing, send, find, WAITS, unique)

    def _sign_in_again(self, renew: Callable[[], SignIn]) -> None:
        try:
            self.sign_in = renew()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise explain(self.host, error) from None
        self._client.default_headers.update(self.sign_in.headers)

    def _is_signed_out(self, error: Any) -> bool:
        # An oauth2-proxy that is not told which paths are an API's answers those with a page too.
        is_page = (error.body or b"").lstrip()[:1] in (b"<", "<")
        return error.status in SIGNED_OUT or (error.status == 403 and is_page)

    def _error(self, doing: str, error: Any) -> PipelineError:
        """Returns what to raise for an answer of the API."""
        status = error.status or 0
        if self._is_signed_out(error):
            return self._signed_out(f"{doing}: ", status)
        text = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else str(error.body or "")
        is_answer = False
        try:
            told = json.loads(text)
            is_answer = "message" in told or "error_message" in told
            details = told.get("details") or [{}]
            text = details[0].get("message") or told.get("message") or told.get("error_message") or text
        except (ValueError, AttributeError, LookupError, TypeError):
            text = "a page, not an answer" if text.lstrip().startswith("<") else text
        # Cut only then, or else half a secret would be left.
        text = redacted(self._settings, " ".join(text.split()), *self.sign_in.headers.values())
        line = f"{doing}: {status}: {text[:400]}"
        if status == 403:
            return UsageError(f"{line}; is --namespace {self.namespace!r} yours?" if self.namespace else line)
        if status == 404 and not is_answer:  # a gateway's, while the server is away
            return PipelineError(line)
        kinds: dict[int, type[PipelineError]] = {
            400: UsageError,
            404: NotFoundError,
            409: ConflictError,
            504: UnansweredError,
        }
        return kinds.get(status, PipelineError)(line.rstrip(": "))

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
