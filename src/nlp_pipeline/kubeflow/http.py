"""How Kubeflow's host is reached over HTTP: who is trusted, by which proxy, and what each failure means."""

import re
import ssl
import urllib.request
from functools import cache
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.calls import UnansweredError
from nlp_pipeline.settings import Settings, checked_address
from nlp_pipeline.storage import retrying

# Statuses of a server that fails for a moment.
TRANSIENT = (429, 500, 502, 503, 504)
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def read_host(host: str) -> str:
    """Returns Kubeflow's address without what a browser adds to it, as in https://host/_/pipeline/?ns=team#/runs.

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


def http_client(settings: Settings, host: str, **options: Any) -> httpx.Client:
    """Returns an HTTP client for a host: who is trusted, and by which proxy.

    Raises:
        UsageError: The settings, or the environment's proxy, are wrong.
    """
    verify = trusted(settings)
    return httpx.Client(verify=verify, proxy=proxy_of(host), trust_env=False, timeout=30, **options)


def trusted(settings: Settings, public: bool = False) -> ssl.SSLContext:
    """Returns how servers are verified: by the known authorities, by a file's instead, or, where told so, not at all.

    Raises:
        UsageError: The file can't be read; with `public` its authorities count beside the known ones.
    """
    if settings.insecure:
        return httpx.create_ssl_context(verify=False)
    if not settings.ca_cert:
        return known_authorities()
    try:
        context = ssl.create_default_context(cafile=settings.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca_cert={settings.ca_cert} can't be read as certificates in PEM form ({error})") from None
    if public:
        context.load_default_certs()
    return context


@cache
def known_authorities() -> ssl.SSLContext:
    """Returns how servers are verified by Mozilla's list, or SSL_CERT_FILE, and the system's authorities."""
    context = httpx.create_ssl_context()
    context.load_default_certs()  # a company puts its own there
    return context


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


class _BusyError(Exception):
    """An answer of a server that fails for a moment."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.answer = answer


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.ConnectError | httpx.TimeoutException):
        return False
    return isinstance(error, _BusyError | httpx.TransportError)


def fetch(client: httpx.Client, address: str, **options: Any) -> httpx.Response:
    """Gets a page; tries again where the connection is dropped, or the server fails for a moment."""

    @retrying(_may_pass)
    def get() -> httpx.Response:
        answer = client.get(address, **options)
        if answer.status_code in TRANSIENT:
            raise _BusyError(answer)
        return answer

    try:
        return get()
    except _BusyError as busy:
        return busy.answer


def explain(host: str, error: Exception) -> PipelineError:
    """Returns what to tell of a host that can't be reached, where httpx raised an error."""
    where, reason = urlsplit(host).netloc, " ".join(str(error).split())
    if isinstance(error, httpx.InvalidURL):
        return UsageError(f"--host {host} is no address ({reason})")
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
