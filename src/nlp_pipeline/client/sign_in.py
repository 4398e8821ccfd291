"""Signing in to Kubeflow: which way, and the Dex form behind oauth2-proxy or the older oidc-authservice.

No cookie is known by name: redirects are followed, forms are filled in, and all cookies are kept.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from nlp_pipeline.client.pages import Form, Page
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import ODD, Settings, header_cookie, header_token

# Where a pod of a Kubeflow profile finds its token for Kubeflow Pipelines.
POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105, a path
POD_TOKEN_PATH = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105, a variable's name
STEPS = 12
WAITS = (0.5, 1.0, 2.0, None)
TRANSIENT = (429, 500, 502, 503, 504)


@dataclass
class SignIn:
    """How requests are signed in.

    Attributes:
        how: The way, as the user is told it.
        headers: Headers of each request; not shown, as they are secrets.
        renew: Signs in again where the session has expired; None where that would change nothing.
    """

    how: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    renew: Callable[[], "SignIn"] | None = field(default=None, repr=False)


def pod_token() -> str:
    """Returns the pod's own token for Kubeflow Pipelines; empty outside of a pod.

    Raises:
        UsageError: The environment names a file that can't be read, or what it holds is no token.
    """
    named = os.environ.get(POD_TOKEN_PATH)
    path = Path(named or POD_TOKEN)
    try:
        token = path.read_bytes().decode("latin-1").strip()
    except OSError as error:
        if named:
            raise UsageError(f"{POD_TOKEN_PATH}={named} can't be read ({error.strerror})") from None
        return ""
    if not re.fullmatch("[!-~]*", token):
        raise UsageError(f"the token in {path} {ODD}")
    return token


def fetch(client: httpx.Client, address: str, **options: Any) -> httpx.Response:
    """Gets a page; tries again where the connection is dropped, or the server fails for a moment.

    Args:
        client: The client.
        address: The page's address.
        **options: More for `client.get`.

    Raises:
        httpx.HTTPError: There is no answer.
    """
    for wait in WAITS:
        try:
            answer = client.get(address, **options)
            if answer.status_code not in TRANSIENT or wait is None:
                return answer
        except (httpx.ConnectError, httpx.TimeoutException):
            raise
        except httpx.TransportError:
            if wait is None:
                raise
        time.sleep(wait)
    raise AssertionError("unreachable")


def choose_sign_in(settings: Settings, host: str, http: Callable[[], httpx.Client]) -> SignIn:
    """Chooses how to sign in, by what is given.

    Args:
        settings: The settings.
        host: Kubeflow's address.
        http: Makes a client for it.

    Raises:
        UsageError: Part of what is needed is missing, or the password is wrong.
        PipelineError: Signing in did not work.
    """
    token, cookies = header_token(settings, "token"), header_cookie(settings, "cookies")
    password = settings.password.get_secret_value()
    if token:
        return SignIn("by bearer token", {"Authorization": f"Bearer {token}"})
    if cookies:
        return SignIn("by cookies", {"Cookie": cookies})
    if settings.username or password:
        if not (settings.username and password):
            missing, given = ("password", "username") if settings.username else ("username", "password")
            raise UsageError(f"a {given} is set, and no {missing}: set NLP_PIPELINE_{missing.upper()} too")

        def renew() -> SignIn:
            headers = sign_in_with_password(http, host, settings.username, password)
            if not headers:
                return SignIn(f"without sign-in, as no one asked for the password of {settings.username}")
            return SignIn(f"as {settings.username}, by password", headers, renew)

        return renew()
    if token := pod_token():

        def read_again() -> SignIn:
            # The kubelet writes a new token before the old one expires.
            return SignIn("by this pod's token", {"Authorization": f"Bearer {pod_token() or token}"}, read_again)

        return read_again()
    return SignIn("without sign-in")


def sign_in_with_password(http: Callable[[], httpx.Client], host: str, username: str, password: str) -> dict[str, str]:
    """Signs in as a browser would: follows redirects, fills in the form, grants what is asked.

    Args:
        http: Makes a client that keeps cookies.
        host: Kubeflow's address.
        username: The e-mail address, or the name for LDAP.
        password: The password.

    Returns:
        The session's cookies, as a header; empty where no one asked for a password.

    Raises:
        UsageError: The password is wrong.
        PipelineError: There is no way through, or a page that no one here knows.
    """
    origin = "{0.scheme}://{0.netloc}/".format(urlsplit(host))
    with http() as client:
        response = fetch(client, origin)
        sent = False
        for _ in range(STEPS):
            page = Page(str(response.url), response.text if "html" in response.headers.get("content-type", "") else "")
            login = next((form for form in page.forms if form.field_of("password")), None)
            if login is not None:
                where = urlsplit(host).netloc
                if sent and response.history:  # it went on, and came back
                    raise UsageError(
                        f"{where} wants the password of {username!r} again: it is wrong, or the session is not kept; "
                        "is --host the address that people open?"
                    )
                if sent:
                    raise UsageError(f"{where} refuses user {username!r} with this password")
                check_target(login, page.address, origin)
                response, sent = submit(client, login, username, password), True
            elif step := next_step(page):
                response = fetch(client, step) if isinstance(step, str) else submit(client, step)
            else:
                break
        if response.status_code >= 500:
            what = f"signing in as {username!r}" if sent else "the sign-in"
            why = page.title or " ".join(response.text.split())[:200]
            raise PipelineError(
                f"{urlsplit(str(response.url)).netloc}: {what} ended with {response.status_code}: "
                f"{why.replace(password, '********')}"
            )
        if not sent:
            if str(response.url) == origin and response.status_code < 400 and not page.forms:
                return {}
            where = str(response.url).partition("?")[0]
            raise PipelineError(
                f"{where} shows no form for a user name and a password ({page.title or response.status_code}): it is "
                "a sign-in of another kind; give a token (NLP_PIPELINE_TOKEN) or a browser's cookies "
                "(NLP_PIPELINE_COOKIES)"
            )
        if response.status_code >= 400:
            told = page.title or " ".join(response.text.split())[:200]
            raise PipelineError(
                f"signing in as {username!r} ended with {response.status_code}: {told.replace(password, '********')}"
            )
        # Those of the whole site, and those of the API alone.
        request = client.build_request("GET", f"{origin}pipeline/apis/")
        return {"Cookie": request.headers.get("cookie", "")}


def check_target(form: Form, page: str, origin: str) -> None:
    """Makes sure that a password goes nowhere but to where the form came from, and not in the clear.

    Args:
        form: The form.
        page: The address of its page.
        origin: Kubeflow's address.

    Raises:
        PipelineError: It would.
    """
    target, source = urlsplit(form.action), urlsplit(page)
    if target.netloc != source.netloc or (origin.startswith("https:") and target.scheme != "https"):
        raise PipelineError(
            f"the sign-in at {source.netloc} wants the password sent to {target.scheme}://{target.netloc}: it is not"
        )
    if form.method != "POST":
        raise PipelineError(f"the sign-in at {source.netloc} wants the password in an address: it is not sent")


def submit(client: httpx.Client, form: Form, username: str = "", password: str = "") -> httpx.Response:
    """Sends a form, filled in with a user's name and password where it has a field for one.

    Args:
        client: The `httpx.Client`.
        form: The form.
        username: The user's name.
        password: The password.

    Returns:
        The response.
    """
    fields = dict(form.fields)
    if secret := form.field_of("password"):
        name = form.field_of("email") or form.field_of("text") or "login"
        fields |= {name: username, secret: password}
    if form.method == "GET":
        return fetch(client, form.action, params=fields)
    return client.post(form.action, data=fields)


def next_step(page: Page) -> Form | str | None:
    """Returns where a page leads that is no login form: a form or an address; None where it leads nowhere.

    Known are the pages of oauth2-proxy ("Sign in with ..."), of Dex's choice of connectors, and of its approval.
    """
    for form in page.forms:
        if form.fields.get("approval") == "approve" or urlsplit(form.action).path.endswith("/oauth2/start"):
            return form
    ways = [link for link in page.links if "/auth/" in urlsplit(link).path]
    for name in ("/auth/local", "/auth/ldap"):
        for link in ways:
            if urlsplit(link).path.endswith(name):
                return link
    starts = [link for link in page.links if urlsplit(link).path.endswith("/oauth2/start")]
    return urljoin(page.address, starts[0]) if starts else None
