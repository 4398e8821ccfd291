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
from nlp_pipeline.settings import COOKIES, ODD, TOKEN, Settings, header_value

# Where a pod of a Kubeflow profile finds its token for Kubeflow Pipelines.
POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105, a path
POD_TOKEN_PATH = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105, a variable's name
# So many pages may lie between the first one and the last.
MAX_PAGES = 12
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
    """Signs in, by what is given; `browser` makes clients that follow redirects and keep cookies.

    Raises:
        UsageError: Part of what is needed is missing, the password is wrong, or a token or cookies can't be sent.
        PipelineError: Signing in by password did not work, or would have sent it elsewhere or in the clear.
        httpx.RequestError: The host can't be reached; see `explained`.
    """
    username, password = settings.username, settings.password.get_secret_value()

    def by_password() -> SignIn:
        with browser() as client:
            headers = _sign_in_with_password(client, host, username, password)
        if not headers:
            return SignIn(f"without sign-in, as no one asked for the password of {username}", ADVICE["none"])
        return SignIn(f"as {username}, by password", ADVICE["password"], headers, by_password)

    def by_pod_token() -> SignIn:
        # The kubelet writes a new token before the old one expires.
        headers = {"Authorization": f"Bearer {_pod_token()}"}
        return SignIn("by this pod's token", ADVICE["token"], headers, by_pod_token)

    if token := header_value(settings, "token"):
        return SignIn("by bearer token", ADVICE["token"], {"Authorization": f"Bearer {token}"})
    if cookies := header_value(settings, "cookies", COOKIES):
        return SignIn("by cookies", ADVICE["cookies"], {"Cookie": cookies})
    if username and password:
        return by_password()
    if username or password:
        missing, present = ("password", "username") if username else ("username", "password")
        raise UsageError(f"a {present} is set, and no {missing}: set NLP_PIPELINE_{missing.upper()} too")
    return by_pod_token() if _pod_token() else SignIn("without sign-in", ADVICE["none"])


def _pod_token() -> str:
    """Returns the pod's own token for Kubeflow Pipelines; empty outside of a pod."""
    path = Path(os.environ.get(POD_TOKEN_PATH) or POD_TOKEN)
    try:
        token = path.read_bytes().decode("latin-1").strip()
    except OSError as error:
        if os.environ.get(POD_TOKEN_PATH):
            raise UsageError(f"{POD_TOKEN_PATH}={path} can't be read ({error.strerror})") from None
        return ""
    if not re.fullmatch(TOKEN, token):
        raise UsageError(f"the token in {path} {ODD}")
    return token


def _sign_in_with_password(client: httpx.Client, host: str, username: str, password: str) -> dict[str, str]:
    """Signs in as a browser would: follows redirects, fills in the form, grants what is asked.

    Returns the session's cookies, as a header; nothing where no one asked for a password.
    """
    origin, where = "{0.scheme}://{0.netloc}/".format(urlsplit(host)), urlsplit(host).netloc
    response, is_sent = fetch(client, origin), False
    for _ in range(MAX_PAGES):
        page = Page(response)
        if (form := page.login_form) is not None:
            if is_sent and not response.history:
                raise UsageError(f"{where} refuses user {username!r} with this password")
            if is_sent:
                raise UsageError(
                    f"{where} wants the password of {username!r} again: it is wrong, or the session is not kept; is "
                    "--host the address that people open?"
                )
            _check_target(form, page.address, origin)
            response, is_sent = client.post(form.action, data=form.filled_in(username, password)), True
        elif (step := page.next_step) is None:
            break
        elif step.method == "POST":
            response = client.post(step.action, data=step.fields)
        else:
            response = fetch(client, step.action, params=step.fields or None)
    if response.status_code >= (400 if is_sent else 500):
        doing = f"signing in as {username!r}" if is_sent else "the sign-in"
        why = (page.title or " ".join(response.text.split())[:200]).replace(password, "********")
        raise PipelineError(f"{urlsplit(page.address).netloc}: {doing} ended with {response.status_code}: {why}")
    if not is_sent:
        if page.address == origin and response.status_code < 400 and not page.forms:
            return {}
        raise PipelineError(
            f"{page.address.partition('?')[0]} shows no form for a user name and a password "
            f"({page.title or response.status_code}): it is a sign-in of another kind; give a token "
            "(NLP_PIPELINE_TOKEN) or a browser's cookies (NLP_PIPELINE_COOKIES)"
        )
    # Those of the whole site, and those of the API alone.
    request = client.build_request("GET", f"{origin}pipeline/apis/")
    return {"Cookie": request.headers.get("cookie", "")}


def _check_target(form: "Form", page: str, origin: str) -> None:
    """Makes sure that a password goes nowhere but to where the form came from, and not in the clear."""
    target, source = urlsplit(form.action), urlsplit(page)
    if target.netloc != source.netloc or (origin.startswith("https:") and target.scheme != "https"):
        raise PipelineError(
            f"the sign-in at {source.netloc} wants the password sent to {target.scheme}://{target.netloc}: it is not"
        )
    if form.method != "POST":
        raise PipelineError(f"the sign-in at {source.netloc} wants the password in an address: it is not sent")


@dataclass
class Form:
    """A form of a page: where it is sent, "GET" or "POST", and the values and types of its fields by their names."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def filled_in(self, username: str, password: str) -> dict[str, str]:
        """Returns what a form for a user name and a password is sent with."""
        names = {kind: name for name, kind in reversed(self.types.items())}  # the first field of each type
        name = names.get("email") or names.get("text") or "login"
        return {**self.fields, name: username, names["password"]: password}


class Page(HTMLParser):
    """What a sign-in reads of an answer: its address, and in HTML the forms, the links (as forms), and the title."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.address = str(answer.url)
        self.forms: list[Form] = []
        self.links: list[Form] = []
        self.title = ""
        self._is_in_form = False
        if "html" in answer.headers.get("content-type", ""):
            self.feed(answer.text)

    @property
    def login_form(self) -> Form | None:
        """The form that asks for a password."""
        return next((form for form in self.forms if "password" in form.types.values()), None)

    @property
    def next_step(self) -> Form | None:
        """Where a page leads that asks for no password; None where it leads nowhere.

        Known are the pages of oauth2-proxy ("Sign in with ..."), of Dex's choice of connectors, and of its approval.
        """
        for form in self.forms:
            if form.fields.get("approval") == "approve" or urlsplit(form.action).path.endswith("/oauth2/start"):
                return form
        known = ("/auth/local", "/auth/ldap", "/oauth2/start")
        links = (link for path in known for link in self.links if urlsplit(link.action).path.endswith(path))
        return next(links, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes forms, their fields, and links."""
        values = {name: value or "" for name, value in attrs}
        name = values.get("name", "")
        if tag == "form":
            action = urljoin(self.address, values.get("action", ""))
            self.forms.append(Form(action, values.get("method", "GET").upper()))
            self._is_in_form = True
        elif tag in ("input", "button") and self._is_in_form and name:
            self.forms[-1].fields.setdefault(name, values.get("value", ""))
            self.forms[-1].types.setdefault(name, values.get("type", "text").lower())
        elif tag == "a" and "href" in values:
            self.links.append(Form(urljoin(self.address, values["href"]), "GET"))

    def handle_endtag(self, tag: str) -> None:
        """Notes the end of a form."""
        self._is_in_form = self._is_in_form and tag != "form"

    def handle_data(self, data: str) -> None:
        """Notes the title."""
        if self.lasttag == "title":
            self.title += data.strip()
