"""Signing in to Kubeflow: which way, and the Dex form behind oauth2-proxy or the older oidc-authservice.

No cookie is known by name: redirects are followed, forms are filled in, and all cookies are kept.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.http import fetch
from nlp_pipeline.settings import ODD, Settings, header_cookie, header_token

# Where a pod of a Kubeflow profile finds its token for Kubeflow Pipelines.
POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105, a path
POD_TOKEN_PATH = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105, a variable's name
# So many pages may lie between the first one and the last.
STEPS = 12
ADVICE = {
    "token": "is the token meant for this cluster, and still valid? kubectl -n PROFILE create token default-editor",
    "cookies": "has the browser's session expired? sign in there anew, and set NLP_PIPELINE_COOKIES",
    "password": "may this user use Kubeflow Pipelines?",
    "none": "set NLP_PIPELINE_TOKEN (kubectl -n PROFILE create token default-editor), or --username with "
    "NLP_PIPELINE_PASSWORD",
}


@dataclass
class SignIn:
    """How requests are signed in.

    Attributes:
        how: The way, as the user is told it.
        advice: What to do where the server lets no one in by it.
        headers: Headers of each request; not shown, as they are secrets.
        renew: Signs in again where the session has expired; None where that would change nothing.
    """

    how: str
    advice: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    renew: Callable[[], "SignIn"] | None = field(default=None, repr=False)


def choose_sign_in(settings: Settings, host: str, browser: Callable[[], httpx.Client]) -> SignIn:
    """Chooses how to sign in, by what is given; `browser` makes clients that follow redirects and keep cookies.

    Raises:
        UsageError: Part of what is needed is missing, or the password is wrong.
        PipelineError: Signing in did not work.
    """
    token, cookies = header_token(settings, "token"), header_cookie(settings, "cookies")
    username, password = settings.username, settings.password.get_secret_value()
    if token:
        return SignIn("by bearer token", ADVICE["token"], {"Authorization": f"Bearer {token}"})
    if cookies:
        return SignIn("by cookies", ADVICE["cookies"], {"Cookie": cookies})
    if username or password:
        if not (username and password):
            missing, given = ("password", "username") if username else ("username", "password")
            raise UsageError(f"a {given} is set, and no {missing}: set NLP_PIPELINE_{missing.upper()} too")

        def sign_in() -> SignIn:
            with browser() as client:
                headers = sign_in_with_password(client, host, username, password)
            if not headers:
                return SignIn(f"without sign-in, as no one asked for the password of {username}", ADVICE["none"])
            return SignIn(f"as {username}, by password", ADVICE["password"], headers, sign_in)

        return sign_in()
    if token := pod_token():

        def read_again() -> SignIn:
            # The kubelet writes a new token before the old one expires.
            headers = {"Authorization": f"Bearer {pod_token() or token}"}
            return SignIn("by this pod's token", ADVICE["token"], headers, read_again)

        return read_again()
    return SignIn("without sign-in", ADVICE["none"])


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


def sign_in_with_password(client: httpx.Client, host: str, username: str, password: str) -> dict[str, str]:
    """Signs in as a browser would: follows redirects, fills in the form, grants what is asked.

    Returns:
        The session's cookies, as a header; empty where no one asked for a password.

    Raises:
        UsageError: The password is wrong.
        PipelineError: There is no way through, or a page that no one here knows.
    """
    origin = "{0.scheme}://{0.netloc}/".format(urlsplit(host))
    where = urlsplit(host).netloc
    response, sent = fetch(client, origin), False
    for _ in range(STEPS):
        page = Page(str(response.url), response.text if "html" in response.headers.get("content-type", "") else "")
        if form := next((form for form in page.forms if form.field_of("password")), None):
            if sent and response.history:  # it went on, and came back
                raise UsageError(
                    f"{where} wants the password of {username!r} again: it is wrong, or the session is not kept; "
                    "is --host the address that people open?"
                )
            if sent:
                raise UsageError(f"{where} refuses user {username!r} with this password")
            _check_target(form, page.address, origin)
            response, sent = _submit(client, form, username, password), True
        elif step := _next_step(page):
            response = fetch(client, step) if isinstance(step, str) else _submit(client, step)
        else:
            break
    if sent or response.status_code >= 500:
        if response.status_code >= 400:
            raise _failure(page, response, username if sent else "", password)
    elif str(response.url) == origin and response.status_code < 400 and not page.forms:
        return {}
    else:
        raise PipelineError(
            f"{str(response.url).partition('?')[0]} shows no form for a user name and a password "
            f"({page.title or response.status_code}): it is a sign-in of another kind; give a token "
            "(NLP_PIPELINE_TOKEN) or a browser's cookies (NLP_PIPELINE_COOKIES)"
        )
    # Those of the whole site, and those of the API alone.
    request = client.build_request("GET", f"{origin}pipeline/apis/")
    return {"Cookie": request.headers.get("cookie", "")}


def _failure(page: "Page", response: httpx.Response, username: str, password: str) -> PipelineError:
    doing = f"signing in as {username!r}" if username else "the sign-in"
    why = (page.title or " ".join(response.text.split())[:200]).replace(password, "********")
    where = urlsplit(str(response.url)).netloc
    return PipelineError(f"{where}: {doing} ended with {response.status_code}: {why}")


def _check_target(form: "Form", page: str, origin: str) -> None:
    """Makes sure that a password goes nowhere but to where the form came from, and not in the clear."""
    target, source = urlsplit(form.action), urlsplit(page)
    if target.netloc != source.netloc or (origin.startswith("https:") and target.scheme != "https"):
        raise PipelineError(
            f"the sign-in at {source.netloc} wants the password sent to {target.scheme}://{target.netloc}: it is not"
        )
    if form.method != "POST":
        raise PipelineError(f"the sign-in at {source.netloc} wants the password in an address: it is not sent")


def _submit(client: httpx.Client, form: "Form", username: str = "", password: str = "") -> httpx.Response:
    """Sends a form, filled in with a user's name and password where it has a field for one."""
    fields = dict(form.fields)
    if secret := form.field_of("password"):
        name = form.field_of("email") or form.field_of("text") or "login"
        fields |= {name: username, secret: password}
    if form.method == "GET":
        return fetch(client, form.action, params=fields)
    return client.post(form.action, data=fields)


def _next_step(page: "Page") -> "Form | str | None":
    """Returns where a page leads that is no login form: a form or an address; None where it leads nowhere.

    Known are the pages of oauth2-proxy ("Sign in with ..."), of Dex's choice of connectors, and of its approval.
    """
    for form in page.forms:
        if form.fields.get("approval") == "approve" or urlsplit(form.action).path.endswith("/oauth2/start"):
            return form
    for path in ("/auth/local", "/auth/ldap", "/oauth2/start"):
        for link in page.links:
            if urlsplit(link).path.endswith(path):
                return link
    return None


@dataclass
class Form:
    """A form of a page: where it is sent, "GET" or "POST", and the values and types of its fields by their names."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def field_of(self, kind: str) -> str | None:
        """Returns the name of the first field of a type."""
        return next((name for name, found in self.types.items() if found == kind), None)


class Page(HTMLParser):
    """A page of HTML, as far as a sign-in must read it: its forms, the addresses that it links to, and its title."""

    def __init__(self, address: str, text: str) -> None:
        super().__init__()
        self.address = address
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.title = ""
        self._form: Form | None = None
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes forms, their fields, and links."""
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._form = Form(urljoin(self.address, given.get("action", "")), given.get("method", "GET").upper())
            self.forms.append(self._form)
        elif tag in ("input", "button") and self._form is not None and given.get("name"):
            self._form.fields.setdefault(given["name"], given.get("value", ""))
            self._form.types.setdefault(given["name"], given.get("type", "text").lower())
        elif tag == "a" and given.get("href"):
            self.links.append(urljoin(self.address, given["href"]))
        elif tag == "title":
            self._in_title = True

    def handle_endtag(self, tag: str) -> None:
        """Notes the end of forms and titles."""
        if tag == "form":
            self._form = None
        elif tag == "title":
            self._in_title = False

    def handle_data(self, data: str) -> None:
        """Notes the title."""
        if self._in_title:
            self.title += data.strip()
