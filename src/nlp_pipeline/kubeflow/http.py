"""How Kubeflow's host is reached over HTTP: who is trusted, by which proxy, and what each failure means."""

import contextlib
import re
import ssl
import urllib.request
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.calls import TRANSIENT, UnansweredError
from nlp_pipeline.settings import Settings, checked_address
from nlp_pipeline.storage import retrying

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def read_host(host: str) -> str:
    """Returns Kubeflow's address without what a browser adds to it, as in https://host/_/pipeline/?ns=team#/runs."""
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
    """Returns an HTTP client for a host; UsageError where the settings, or the environment's proxy, are wrong."""
    return httpx.Client(verify=trusted(settings), proxy=_proxy_of(host), trust_env=False, timeout=30, **options)


def trusted(settings: Settings, public: bool = False) -> ssl.SSLContext:
    """Returns how servers are verified: by the known authorities, by a file's instead, or, where told so, not at all.

    Raises:
        UsageError: The file can't be read; with `public` its authorities count beside the known ones.
    """
    if settings.insecure:
        return httpx.create_ssl_context(verify=False)
    if not settings.ca_cert:
        return _known_authorities()
    try:
        context = ssl.create_default_context(cafile=settings.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca_cert={settings.ca_cert} can't be read as certificates in PEM form ({error})") from None
    if public:
        context.load_default_certs()
    return context


@cache
def _known_authorities() -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    context.load_default_certs()  # a company puts its own there
    return context


def _proxy_of(host: str) -> str | None:
    """Returns the proxy that the environment names for a host; this machine is reached without any."""
    parts = urlsplit(host)
    if parts.hostname in THIS_MACHINE or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if proxy and not re.fullmatch(r"https?://[^/\s]+/?", proxy):
        raise UsageError(f"the proxy for {parts.netloc} in the environment is no http:// or https:// address")
    return proxy or None


def _is_transient(error: BaseException) -> bool:
    is_down = isinstance(error, httpx.ConnectError | httpx.TimeoutException)
    return isinstance(error, httpx.HTTPStatusError | httpx.TransportError) and not is_down


def fetch(client: httpx.Client, address: str, **options: Any) -> httpx.Response:
    """Gets a page; tries again where the connection is dropped, or the server fails for a moment."""

    @retrying(_is_transient)
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
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise explain(host, error) from None


def explain(host: str, error: Exception) -> PipelineError:
    """Returns what to tell of a host that can't be reached, where httpx raised an error."""
    where, reason = urlsplit(host).netloc, " ".join(str(error).split())
    if isinstance(error, httpx.InvalidURL):
        return UsageError(f"--host {host} is no address ({reason})")
    if "certificate verify failed" in reason:
        why = reason.partition("certificate verify failed:")[2].partition("(")[0].strip(" .") or "it is not trusted"
        remedies = {"expired": "it must be renewed", "mismatch": "use the name in --host that it is for"}
        advice = next(
            (text for word, text in remedies.items() if word in why), "give its authority with --ca-cert FILE"
        )
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
