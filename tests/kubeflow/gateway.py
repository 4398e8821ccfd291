"""What stands in front of Kubeflow: sign-in of two kinds, none, one that no one knows, or no Kubeflow at all."""

import hashlib
import html
import secrets
import urllib.parse
from collections.abc import Callable
from typing import Literal, Protocol

from tests.kubeflow.dex import Dex
from tests.kubeflow.httpd import Request, Response, page, redirect
from tests.kubeflow.sessions import Sessions

Upstream = Callable[[Request, str], Response]
Unauthenticated = Literal["page", "redirect", "direct"]
SCOPE = "profile email groups openid"


class Gateway(Protocol):
    """Answers a request itself, or lets it through to what is behind."""

    def answer(self, request: Request) -> Response:
        """Answers a request."""


class Open:
    """No sign-in; where there are several users, no one is known either."""

    def __init__(self, upstream: Upstream, sessions: Sessions) -> None:
        self._upstream, self._sessions = upstream, sessions

    def answer(self, request: Request) -> Response:
        return self._upstream(request, self._sessions.of_bearer(request.headers.get("authorization", "")))


class OAuth2Proxy:
    """oauth2-proxy in front of Dex: Kubeflow since 1.9.

    After its oauthproxy.go and pkg/cookies/, with the settings of kubeflow/manifests' common/oauth2-proxy.

    Args:
        upstream: What is behind.
        sessions: Who is signed in.
        dex: Where users sign in.
        secure: Whether cookies are for TLS alone.
        unauthenticated: What someone unknown gets: a page with a button that leads to `/oauth2/start`, as Kubeflow sets
            it by now (skip_provider_button = false), a redirection to there, or one to Dex.
        api_routes: Whether API paths get a 401 whatever they accept, as Kubeflow sets it by now.
    """

    def __init__(
        self,
        upstream: Upstream,
        sessions: Sessions,
        dex: Dex,
        secure: bool,
        unauthenticated: Unauthenticated = "page",
        api_routes: bool = True,
    ) -> None:
        self._upstream, self._sessions, self._dex = upstream, sessions, dex
        self._secure, self._unauthenticated, self._api_routes = secure, unauthenticated, api_routes
        self._nonces: dict[str, str] = {}
        dex.clients["kubeflow-oidc-authservice"] = "/oauth2/callback"

    def answer(self, request: Request) -> Response:
        if request.path.startswith("/dex/"):
            return self._dex.answer(request)
        if request.path == "/oauth2/start":
            return self._start(dict(request.query).get("rd", "/"))
        if request.path == "/oauth2/callback":
            return self._callback(request)
        if request.path == "/oauth2/sign_out":
            return redirect("/", headers=self._forget())
        if "authorization" in request.headers:
            # Istio checks tokens itself; such requests never see oauth2-proxy.
            user = self._sessions.of_bearer(request.headers["authorization"])
            return self._upstream(request, user) if user else Response(401, "Jwt verification fails", PLAIN)
        user = self._sessions.user(self._session_of(request))
        return self._upstream(request, user) if user else self._refuse(request)

    def _refuse(self, request: Request) -> Response:
        accepted = [one.strip() for one in request.headers.get("accept", "").split(",")]
        is_api = "/api/" in request.target or "/apis/" in request.target
        if "application/json" in accepted or (self._api_routes and is_api):
            return Response(401, "{}", [("Content-Type", "application/json")])
        if self._unauthenticated == "direct":
            return self._start(request.target)
        if self._unauthenticated == "redirect":
            return redirect(f"/oauth2/start?{urllib.parse.urlencode({'rd': request.target})}")
        return page(
            '<form method="GET" action="/oauth2/start">'
            f'<input type="hidden" name="rd" value="{html.escape(request.target)}">'
            '<button type="submit" class="button block is-primary">Sign in with Dex</button></form>',
            403,
            self._forget(),
        )

    def _start(self, rd: str) -> Response:
        nonce, key = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        self._nonces[key] = nonce
        back = rd if rd.startswith("/") and not rd.startswith("//") else "/"
        asked = {
            "client_id": "kubeflow-oidc-authservice",
            "code_challenge": secrets.token_urlsafe(32),
            "code_challenge_method": "S256",
            "prompt": "none",
            "redirect_uri": "/oauth2/callback",
            "response_type": "code",
            "scope": SCOPE,
            "state": f"{_hash(nonce)}:{back}",
        }
        cookie = self._cookie("oauth2_proxy_kubeflow_csrf", key, 900)
        return redirect(f"/dex/auth?{urllib.parse.urlencode(asked)}", headers=[cookie])

    def _callback(self, request: Request) -> Response:
        query = dict(request.query)
        hashed, _, back = query.get("state", "").partition(":")
        nonce = self._nonces.pop(request.cookies.get("oauth2_proxy_kubeflow_csrf", ""), "")
        if not nonce or _hash(nonce) != hashed:
            return page("Login Failed: Unable to find a valid CSRF token. Please try again.", 403)
        user = self._dex.redeem(query.get("code", ""))
        if not user:
            return page("Oops! Something went wrong.", 500)
        # A session with its tokens doesn't fit into one cookie.
        session = self._sessions.open(user, 5200)
        pieces = [session[:3800], session[3800:]]
        cookies = [self._cookie(f"oauth2_proxy_kubeflow_{at}", one, 86400) for at, one in enumerate(pieces)]
        return redirect(back or "/", headers=[self._cookie("oauth2_proxy_kubeflow_csrf", "", 0), *cookies])

    def _session_of(self, request: Request) -> str:
        return "".join(request.cookies.get(f"oauth2_proxy_kubeflow_{at}", "") for at in range(2))

    def _forget(self) -> list[tuple[str, str]]:
        return [self._cookie(f"oauth2_proxy_kubeflow_{at}", "", 0) for at in range(2)]

    def _cookie(self, name: str, value: str, age: int) -> tuple[str, str]:
        return set_cookie(name, value, age, self._secure)


class AuthService:
    """Arrikto's oidc-authservice in front of Dex: Kubeflow until 1.8; after its server.go and state.go.

    Args:
        upstream: What is behind.
        sessions: Who is signed in.
        dex: Where users sign in.
        secure: Whether cookies are for TLS alone.
    """

    def __init__(self, upstream: Upstream, sessions: Sessions, dex: Dex, secure: bool) -> None:
        self._upstream, self._sessions, self._dex, self._secure = upstream, sessions, dex, secure
        self._states: dict[str, str] = {}
        dex.clients["kubeflow-oidc-authservice"] = "/login/oidc"

    def answer(self, request: Request) -> Response:
        if request.path.startswith("/dex/"):
            return self._dex.answer(request)
        if request.path == "/login/oidc":
            return self._callback(request)
        user = self._sessions.of_bearer(request.headers.get("authorization", ""))
        user = user or self._sessions.user(request.cookies.get("authservice_session", ""))
        return self._upstream(request, user) if user else self._start(request)

    def _start(self, request: Request) -> Response:
        state = secrets.token_urlsafe(32)
        self._states[state] = request.path
        asked = {
            "client_id": "kubeflow-oidc-authservice",
            "redirect_uri": "/login/oidc",
            "response_type": "code",
            "scope": SCOPE,
            "state": state,
        }
        cookie = set_cookie("oidc_state_csrf", state, 1200, self._secure)
        return redirect(f"/dex/auth?{urllib.parse.urlencode(asked)}", headers=[cookie])

    def _callback(self, request: Request) -> Response:
        query = dict(request.query)
        if not query.get("code"):
            return redirect("/")
        state = query.get("state", "")
        if state not in self._states or request.cookies.get("oidc_state_csrf") != state:
            text = "CSRF check failed. This may happen if you opened the login form in more than 1 tabs. Please try to "
            return Response(400, text + "login again.", PLAIN)
        user = self._dex.redeem(query["code"])
        if not user:
            return Response(500, "Failed to exchange authorization code with token.", PLAIN)
        cookie = set_cookie("authservice_session", self._sessions.open(user, 64), 86400, self._secure)
        return redirect(self._states.pop(state), headers=[cookie])


class Unknown:
    """A sign-in of a company's own, which no one here knows."""

    def answer(self, request: Request) -> Response:
        if request.path != "/sso/login":
            return redirect(f"/sso/login?{urllib.parse.urlencode({'next': request.path})}")
        return page(
            '<h1>Example Corporation</h1><form method="post" action="/sso/verify"><input name="employee_number">'
            '<input name="one_time_code"><input type="hidden" name="token" value="1f3a"><button>Next</button></form>'
        )


class NoKubeflow:
    """A server that answers whatever is asked with a page."""

    def answer(self, request: Request) -> Response:
        del request
        return page("<h1>It works!</h1>")


PLAIN = [("Content-Type", "text/plain")]


def set_cookie(name: str, value: str, age: int, secure: bool) -> tuple[str, str]:
    """Returns the header that sets a cookie; with an age of 0 it takes it away."""
    return "Set-Cookie", f"{name}={value}; Path=/; Max-Age={age}; HttpOnly{'; Secure' if secure else ''}"


def _hash(nonce: str) -> str:
    return hashlib.sha256(nonce.encode()).hexdigest()
