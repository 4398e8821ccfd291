"""Dex, as far as someone who signs in with a password sees it: after its server/ and web/templates/."""

import dataclasses
import html
import re
import secrets
import urllib.parse

from tests.kubeflow.httpd import Request, Response, page, redirect

PROMPTS = {"local": "Email Address", "ldap": "Username"}
UNSUPPORTED = "Unsupported request method."
TITLES = {"local": "Email", "ldap": "LDAP", "github": "GitHub"}


@dataclasses.dataclass
class _Request:
    """An authorization request."""

    client_id: str
    redirect_uri: str
    state: str
    connector: str
    user: str = ""
    hmac: str = dataclasses.field(default_factory=lambda: secrets.token_urlsafe(32))


class Dex:
    """The identity provider, at `/dex`.

    Args:
        users: Passwords by e-mail address; by the part before the "@" for LDAP.
        connectors: Ways to sign in: local, ldap, and github, which takes no password; a page offers them where there
            are several.
        approval: Whether users are asked to grant access.
        invalid_status: With what a wrong password is answered; 200 before Dex 2.25.
    """

    def __init__(
        self,
        users: dict[str, str],
        connectors: tuple[str, ...] = ("local",),
        approval: bool = False,
        invalid_status: int = 401,
    ) -> None:
        self.users, self.connectors, self.approval, self._invalid = users, connectors, approval, invalid_status
        self.clients: dict[str, str] = {}
        self._requests: dict[str, _Request] = {}
        self._codes: dict[str, str] = {}

    def redeem(self, code: str) -> str:
        """Returns the user of a code, which is good for once; nothing for an unknown one."""
        return self._codes.pop(code, "")

    def answer(self, request: Request) -> Response:
        """Answers a request to a path below `/dex/`."""
        query = dict(request.query)
        if request.path == "/dex/auth":
            return self._choose(query)
        login = re.fullmatch("/dex/auth/([a-z]+)(/login)?", request.path)
        if login and login[1] in self.connectors and login[2]:
            return self._login(request, query, login[1])
        if login and login[1] in self.connectors:
            # A request that was not a GET keeps its method when urllib3 follows a 302.
            return (
                self._connect(query, login[1]) if request.method == "GET" else _error("Bad Request", UNSUPPORTED, 400)
            )
        if request.path == "/dex/approval":
            return self._approve(request, {**query, **request.form})
        return _error("Page not found", "", 404)

    def _choose(self, query: dict[str, str]) -> Response:
        encoded = urllib.parse.urlencode(sorted(query.items()))
        if len(self.connectors) == 1:
            return redirect(f"/dex/auth/{self.connectors[0]}?{encoded}")
        links = [
            f'<div class="theme-form-row"><a href="{html.escape(f"/dex/auth/{one}?{encoded}")}" class="dex-btn">'
            f'<span class="dex-btn-text">Log in with {TITLES[one]}</span></a></div>'
            for one in self.connectors
        ]
        return page(f'<h2 class="theme-heading">Log in to dex </h2>{"".join(links)}')

    def _connect(self, query: dict[str, str], connector: str) -> Response:
        client = query.get("client_id", "")
        if client not in self.clients:
            return _error("Bad Request", f"Invalid client_id ({client!r}).", 404)
        if query.get("redirect_uri") != self.clients[client]:
            return _error("Bad Request", f"Unregistered redirect_uri ({query.get('redirect_uri')!r}).", 400)
        if query.get("response_type") != "code" or "openid" not in query.get("scope", "").split():
            return _error("Bad Request", "Missing required scope(s) or response type.", 400)
        key = secrets.token_hex(12)
        self._requests[key] = _Request(client, query["redirect_uri"], query.get("state", ""), connector)
        if connector not in PROMPTS:
            return redirect("https://github.example.com/login/oauth/authorize")
        back = f"/dex/auth?{urllib.parse.urlencode(sorted(query.items()))}" if len(self.connectors) > 1 else ""
        return redirect(f"/dex/auth/{connector}/login?{urllib.parse.urlencode({'back': back, 'state': key})}")

    def _login(self, request: Request, query: dict[str, str], connector: str) -> Response:
        found = self._requests.get(query.get("state", ""))
        if found is None:
            return _error("Bad Request", "User session error.", 400)
        if found.connector != connector:
            return _error("Internal Server Error", "Requested resource does not exist.", 500)
        if request.method == "GET":
            return self._form(request.target, connector, "", query.get("back", ""))
        login = request.form.get("login", "")
        names = {email.partition("@")[0] if connector == "ldap" else email: email for email in self.users}
        if login not in names or self.users[names[login]] != request.form.get("password"):
            return self._form(request.target, connector, login, query.get("back", ""), invalid=True)
        found.user = names[login]
        if self.approval:
            asked = urllib.parse.urlencode({"hmac": found.hmac, "req": query["state"]})
            return redirect(f"/dex/approval?{asked}", 303)
        return self._send_code(query["state"])

    def _form(self, target: str, connector: str, login: str, back: str, invalid: bool = False) -> Response:
        prompt = PROMPTS[connector]
        told = (
            f'<div id="login-error" class="dex-error-box">\n  Invalid {prompt} and password.\n</div>' if invalid else ""
        )
        link = f'<a class="dex-subtle-text" href="{html.escape(back)}">Select another login method.</a>' if back else ""
        return page(
            f'<h2 class="theme-heading">Log in to Your Account</h2>\n'
            f'<form method="post" action="{html.escape(target)}">\n'
            f'<label for="login">{prompt}</label>\n'
            f'<input tabindex="1" required id="login" name="login" type="text" value="{html.escape(login)}"/>\n'
            '<label for="password">Password</label>\n'
            '<input tabindex="2" required id="password" name="password" type="password" placeholder="password"/>\n'
            f'{told}\n<button tabindex="3" id="submit-login" type="submit">Login</button>\n</form>{link}',
            self._invalid if invalid else 200,
        )

    def _approve(self, request: Request, given: dict[str, str]) -> Response:
        found = self._requests.get(given.get("req", ""))
        if not given.get("hmac"):
            return _error("Unauthorized", "Unauthorized request", 401)
        if found is None:
            return _error("Bad Request", "User session error.", 400)
        if not found.user or given["hmac"] != found.hmac:
            return _error("Unauthorized", "Unauthorized request", 401)
        if request.method == "GET":
            form = '<form method="post"><input type="hidden" name="req" value="{}"/>'
            form += '<input type="hidden" name="approval" value="{}"><button type="submit">{}</button></form>'
            first, second = (
                form.format(given["req"], "approve", "Grant Access"),
                form.format(given["req"], "rejected", "Cancel"),
            )
            return page(f'<h2 class="theme-heading">Grant Access</h2>{first}{second}')
        if given.get("approval") != "approve":
            return _error("Internal Server Error", "Approval rejected.", 500)
        return self._send_code(given["req"])

    def _send_code(self, key: str) -> Response:
        found = self._requests.pop(key)
        code = secrets.token_hex(12)
        self._codes[code] = found.user
        return redirect(f"{found.redirect_uri}?{urllib.parse.urlencode({'code': code, 'state': found.state})}", 303)


def _error(kind: str, text: str, status: int) -> Response:
    return page(f'<h2 class="theme-heading">{kind}</h2><p>{html.escape(text)}</p>', status)
