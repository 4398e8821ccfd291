"""How Kubeflow's host is reached over HTTP: who is trusted, by which proxy, and what each failure means."""

import contextlib
import re
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.calls import TRANSIENT, UnansweredError
from nlp_pipeline.settings import Settings
from nlp_pipeline.storage import is_transient, retrying

# This machine is reached without the proxy that the environment names.
WITHOUT_PROXY: dict[str, None] = dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]"))


def read_host(host: str) -> str:
    """Returns Kubeflow's address without what a browser adds to it, as in https://host/_/pipeline/?ns=team#/runs."""
    if not host:
        raise UsageError("no host: give --host URL, set NLP_PIPELINE_HOST, or write host into .env")
    try:
        parts = urlsplit(host)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
        httpx.URL(host)
    except (ValueError, httpx.InvalidURL):
        raise UsageError(f"--host {host} is no address: write https://kubeflow.example.com") from None
    path = parts.path.partition("/_/")[0].removesuffix("/_").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def http_client(settings: Settings, **options: Any) -> httpx.Client:
    """Returns an HTTP client; UsageError where the settings, or the environment's proxy, are wrong."""
    try:
        return httpx.Client(verify=trusted(settings), mounts=WITHOUT_PROXY, timeout=30, **options)
    except (ValueError, ImportError) as error:
        raise UsageError(f"the environment's proxy can't be used: {error}") from None


def trusted(settings: Settings) -> ssl.SSLContext:
    """Returns how servers are verified: by the known authorities and those of a file, or, where asked, not at all.

    Raises:
        UsageError: The file can't be read as certificates in PEM form.
    """
    if settings.insecure:
        return httpx.create_ssl_context(verify=False)
    context = httpx.create_ssl_context()
    context.load_default_certs()  # a company puts its own there
    try:
        if settings.ca_cert:
            context.load_verify_locations(settings.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca_cert={settings.ca_cert} can't be read as certificates in PEM form ({error})") from None
    return context


def _may_pass(error: BaseException) -> bool:
    # Who does not answer at all is rather named wrongly.
    return is_transient(error) and not isinstance(error, httpx.ConnectError | httpx.TimeoutException)


def fetch(client: httpx.Client, address: str, **options: Any) -> httpx.Response:
    """Gets a page; tries again where the connection is dropped, or the server fails for a moment."""

    @retrying(may_pass=_may_pass)
    def get() -> httpx.Response:
        answer = client.get(address, **options)
        return answer.raise_for_status() if answer.status_code in TRANSIENT else answer

    try:
        return get()
    except httpx.HTTPStatusError as error:
        return error.response


@contextlib.contextmanager
def explained(host: str) -> Iterator[None]:
    """Raises what `explain` makes of httpx's errors."""
    try:
        yield
    except httpx.RequestError as error:
        raise explain(host, error) from None


def explain(host: str, error: BaseException) -> PipelineError:
    """Returns what to tell of a host that can't be reached, where httpx raised an error."""
    where, reason = urlsplit(host).netloc, " ".join(str(error).split())
    if "certificate verify failed" in reason:
        why = reason.partition("certificate verify failed:")[2].partition("(")[0].strip(" .") or "it is not trusted"
        advice = "give its authority with --ca-cert FILE"
        if "expired" in why:
            advice = "it must be renewed"
        elif "mismatch" in why:
            advice = "use the name in --host that it is for"
        return UsageError(f"{where}: its certificate can't be verified ({why}): {advice}")
    if re.search("Name or service not known|nodename nor servname|No address associated", reason):
        return UsageError(f"{where}: there is no such host; check --host {host}")
    if "name resolution" in reason:
        return PipelineError(f"{where}: its name can't be looked up now; check --host {host}, and your network")
    if "wrong version number" in reason.lower().replace("_", " "):
        return UsageError(f"{where} does not speak TLS: write http:// in --host {host}")
    if isinstance(error, httpx.ReadTimeout):
        return UnansweredError(f"{where} does not answer in time")
    if isinstance(error, httpx.RemoteProtocolError) and host.startswith("http:"):
        reason = f"{reason.rstrip('.')}; if it speaks TLS, write https:// in --host"
    return PipelineError(f"{where} can't be reached: {reason or type(error).__name__}")
