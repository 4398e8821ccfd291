"""What stands in front of Kubeflow: sign-in of two kinds with Dex's forms, or one that no one knows.

oauth2-proxy after its oauthproxy.go and pkg/cookies/, with the settings of kubeflow/manifests; oidc-authservice after
its server.go; Dex after its server/ and web/templates/.
"""

import dataclasses
import html
import re
import secrets
from collections.abc import Callable
from typing import ClassVar
from urllib.parse import urlencode

from tests.fakes.httpd import Request, Response, page, redirect

Upstream = Callable[[Request, str], Response]
PLAIN = [("Content-Type", "text/plain")]
PROMPTS = {"local": "Email Address", "ldap": "Username"}


class Sessions:
    """Who is signed in: sessions that a gateway opened, which end when tests say so; the user of each bearer token."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self.users: dict[str, str] = {}
        self.tokens = tokens

    def open(self, user: str, length: int) -> str:
        key = secrets.token_hex(length // 2)
        self.users[key] = user
        return key

    def user(self, key: str) -> str:
        """Returns whose session it is; nothing if there is none."""
        return self.users.get(key, "")

    def of_bearer(self, request: Request) -> str:
        """Returns the user of an Authorization header; nothing if its token isn't known."""
        return self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer ").strip(), "")

    def expire(self) -> None:
        self.users.clear()


@dataclasses.dataclass
class Dex:
    """The identity provider, at `/dex`; where there are several connectors, a page offers them."""

    users: dict[str, str]  # passwords by e-mail address; by the part before the "@" for LDAP
    connectors: tuple[str, ...] = ("local",)  # or ldap, or github, which takes no password
    approval: bool = False  # whether users are asked to grant access
    invalid_status: int = 401  # with what a wrong password is answered; 200 before Dex 2.25
    callback: str = ""  # where a user is sent with a code
    _requests: dict[str, str] = dataclasses.field(default_factory=dict)
    _users: dict[str, str] = dataclasses.field(default_factory=dict)

    def redeem(self, code: str) -> str:
        """Returns the user of a code, which is good for once; nothing for an unknown one."""
        return self._users.pop(code, "")

    def answer(self, request: Request) -> Response:
        """Answers a request to a path below `/dex/`."""
        query = dict(request.query)
        login = re.fullmatch("/dex/auth/([a-z]+)(/login)?", request.path)
        if request.path == "/dex/auth":
            targets = [f"/dex/auth/{name}?{urlencode(query)}" for name in self.connectors]
            links = "".join(f'<a href="{html.escape(target)}" class="dex-btn">Log in</a>' for target in targets)
            return page(links) if len(targets) > 1 else redirect(targets[0])
        if login and login[2]:
            return self._login(request, query["state"], login[1])
        if login and login[1] in PROMPTS:
            key = secrets.token_hex(12)
            self._requests[key] = query["state"]
            return redirect(f"/dex/auth/{login[1]}/login?{urlencode({'back': '', 'state': key})}")
        if request.path == "/dex/approval":
            return self._approve(request, {**query, **request.form})
        return page("<h2>Bad Request</h2>", 404)

    def _login(self, request: Request, key: str, connector: str) -> Response:
        login = request.form.get("login", "")
        users = {email.partition("@")[0] if connector == "ldap" else email: email for email in self.users}
        if request.method == "POST" and login in users and self.users[users[login]] == request.form.get("password"):
            self._users[key] = users[login]
            return redirect(f"/dex/approval?req={key}", 303) if self.approval else self._send_code(key)
        is_wrong = request.method == "POST"
        error = f'<div id="login-error">Invalid {PROMPTS[connector]} and password.</div>' if is_wrong else ""
        return page(
            f'<h2 class="theme-heading">Log in to Your Account</h2>\n'
            f'<form method="post" action="{html.escape(request.target)}">\n'
            f'<input tabindex="1" required id="login" name="login" type="text" value="{html.escape(login)}"/>\n'
            '<input tabindex="2" required id="password" name="password" type="password" placeholder="password"/>\n'
            f'{error}\n<button tabindex="3" id="submit-login" type="submit">Login</button>\n</form>',
            self.invalid_status if is_wrong else 200,
        )

    def _approve(self, request: Request, values: dict[str, str]) -> Response:
        if request.method == "POST":
            return self._send_code(values["req"]) if values["approval"] == "approve" else page("rejected", 500)
        form = f'<form method="post"><input type="hidden" name="req" value="{values["req"]}"/>'
        form += '<input type="hidden" name="approval" value="{0}"><button type="submit">{0}</button></form>'
        return page(form.format("approve") + form.format("rejected"))

    def _send_code(self, key: str) -> Response:
        return redirect(f"{self.callback}?{urlencode({'code': key, 'state': self._requests.pop(key)})}", 303)


@dataclasses.dataclass
class OAuth2Proxy:
    """oauth2-proxy in front of Dex: Kubeflow since 1.9.

    Someone unknown gets, as Kubeflow sets it by now, a page with a button that leads to `/oauth2/start`, and on API
    paths a 401 whatever they accept; or is redirected there. Secure cookies are for TLS alone.
    """

    upstream: Upstream
    sessions: Sessions
    dex: Dex
    secure: bool
    redirects: bool = False
    callback = "/oauth2/callback"
    csrf = "oauth2_proxy_kubeflow_csrf"
    # A session with its tokens doesn't fit into one cookie.
    cookies: ClassVar = {"oauth2_proxy_kubeflow_0": 3800, "oauth2_proxy_kubeflow_1": 1400}

    def __post_init__(self) -> None:
        self.dex.callback = self.callback

    def answer(self, request: Request) -> Response:
        query = dict(request.query)
        if request.path.startswith("/dex/"):
            return self.dex.answer(request)
        if request.path == "/oauth2/start":
            return self.start(query.get("rd", "/"))
        if request.path == self.callback:
            return self.finish(request, query)
        if "authorization" in request.headers:
            # Istio checks tokens itself; such requests never see oauth2-proxy.
            user = self.sessions.of_bearer(request)
            return self.upstream(request, user) if user else Response(401, "Jwt verification fails", PLAIN)
        user = self.sessions.user("".join(request.cookies.get(name, "") for name in self.cookies))
        return self.upstream(request, user) if user else self.refuse(request)

    def refuse(self, request: Request) -> Response:
        accepted = request.headers.get("accept", "")
        if "application/json" in accepted or (not self.redirects and "/apis/" in request.target):
            return Response(401, "{}", [("Content-Type", "application/json")])
        if self.redirects:
            return redirect(f"/oauth2/start?{urlencode({'rd': request.target})}")
        return page(
            '<form method="GET" action="/oauth2/start">'
            f'<input type="hidden" name="rd" value="{html.escape(request.target)}">'
            '<button type="submit" class="button block is-primary">Sign in with Dex</button></form>',
            403,
        )

    def start(self, back: str) -> Response:
        nonce = secrets.token_urlsafe(32)
        target = f"/dex/auth?{urlencode({'state': f'{nonce}:{back}', 'scope': 'openid'})}"
        return redirect(target, headers=[self._cookie(self.csrf, nonce, 900)])

    def finish(self, request: Request, query: dict[str, str]) -> Response:
        nonce, _, back = query["state"].partition(":")
        user = self.dex.redeem(query["code"])
        if request.cookies.get(self.csrf) != nonce or not user:
            return page("Login Failed: Unable to find a valid CSRF token. Please try again.", 403)
        key = self.sessions.open(user, sum(self.cookies.values()))
        headers = [self._cookie(self.csrf, "", 0)]
        for name, length in self.cookies.items():
            headers.append(self._cookie(name, key[:length], 86400))
            key = key[length:]
        return redirect(back, headers=headers)

    def _cookie(self, name: str, value: str, age: int) -> tuple[str, str]:
        """Returns the header that sets a cookie; with an age of 0 it takes it away."""
        secure = "; Secure" if self.secure else ""
        return "Set-Cookie", f"{name}={value}; Path=/; Max-Age={age}; HttpOnly{secure}"


class AuthService(OAuth2Proxy):
    """Arrikto's oidc-authservice in front of Dex: Kubeflow until 1.8. Whoever is unknown is sent to Dex."""

    callback = "/login/oidc"
    csrf = "oidc_state_csrf"
    cookies: ClassVar = {"authservice_session": 64}

    def refuse(self, request: Request) -> Response:
        return self.start(request.path)


def unknown_sign_in(request: Request) -> Response:
    """Answers as a sign-in of a company's own, which no one here knows."""
    if request.path != "/sso/login":
        return redirect(f"/sso/login?{urlencode({'next': request.path})}")
    return page(
        '<h1>Example Corporation</h1><form method="post" action="/sso/verify"><input name="employee_number">'
        '<input name="one_time_code"><input type="hidden" name="token" value="1f3a"><button>Next</button></form>'
    )
