"""Kubeflow Pipelines, emulated over HTTP, for the real `kfp.Client` and for what signs in.

    with kubeflow("dex", users={"ann@example.com": "secret"}, namespaces={"ann@example.com": "team"}, tls=ca) as k:
        kfp.Client(host=k.api_url, cookies=..., ssl_ca_cert=str(ca.path)).upload_pipeline(...)
        assert [str(one) for one in k.requests] == ["GET /healthz", "POST /pipelines/upload"]
        assert not k.refused

Time passes with each record that is made, and for a run when it is read by its id.

    emulator.py     Kubeflow as tests see it; httpd.py: its server; tls.py: certificates
    faults.py       what goes wrong on the way
    gateway.py      oauth2-proxy, oidc-authservice, and what is neither; dex.py: forms; sessions.py: who is signed in
    api.py          the API server: which request goes where; asked.py: what it asks; swagger.py: whether it may
    store.py        what is stored, for whom, when; listing.py: filters, order, pages; errors.py: refusals
    experiments.py  pipelines.py  runs.py  recurring.py
    spec.py         pipelines and their parameters; tasks.py: how runs go on; cron.py: schedules
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from tests.kubeflow.api import Api, Seen
from tests.kubeflow.dex import Dex
from tests.kubeflow.faults import Faults, Hold
from tests.kubeflow.gateway import AuthService, Gateway, NoKubeflow, OAuth2Proxy, Open, Unknown
from tests.kubeflow.httpd import Host, Request, Response, page
from tests.kubeflow.sessions import Sessions
from tests.kubeflow.store import Access
from tests.kubeflow.tasks import Fate
from tests.kubeflow.tls import Authority

__all__ = ["Fate", "Hold", "Kubeflow", "Seen", "kubeflow"]

SignIn = Literal["none", "dex", "authservice", "unknown", "no kubeflow"]


class Kubeflow:
    """A Kubeflow, or what is taken for one: what tests set, and what they may ask.

    Args:
        access: Who may do what where.
        users: Passwords by e-mail address.
        tokens: The user of each service account's token.

    Attributes:
        api: What is stored (`api.runs`, `api.versions` ...), what becomes of runs (`api.fate`), and the clock.
        faults: What goes wrong on the way.
        sessions: Who is signed in; `sessions.expire()`, `sessions.expire_after(3)`.
        dex: Users and ways to sign in.
        visits: Method and path of all requests, also those that a gateway answered.
        logs: What a pod has printed, by its namespace and name, for the user interface to show.
    """

    def __init__(self, access: Access, users: dict[str, str], tokens: dict[str, str], dex: Mapping[str, Any]) -> None:
        self._multi_user = access.multi_user
        self.api, self.faults, self.sessions = Api(access), Faults(), Sessions(tokens)
        self.dex = Dex(users, **dex)
        self.visits: list[str] = []
        self.logs: dict[tuple[str, str], str] = {}
        self._gateway: Gateway
        self._host: Host

    @property
    def url(self) -> str:
        """The address that people open."""
        return self._host.url

    @property
    def api_url(self) -> str:
        """The address that `kfp.Client` takes as its host."""
        return f"{self.url}/pipeline" if self._multi_user else self.url

    @property
    def requests(self) -> list[Seen]:
        """All requests that came as far as the API server."""
        return self.api.requests

    @property
    def refused(self) -> list[str]:
        """Why requests were refused that KFP's Swagger description does not allow."""
        return self.api.refused

    def stop(self) -> None:
        """Goes away: connecting is refused."""
        self._host.stop()

    def start(self) -> None:
        """Comes back on the same port."""
        self._host.start()

    def _front(self, request: Request) -> Response | None:
        name = f"{request.method} {request.path}"
        self.visits.append(name)
        return self.faults.around(name, lambda: self._gateway.answer(request))

    def _behind(self, request: Request, user: str) -> Response:
        target = request.target
        if target.startswith("/pipeline/apis/"):
            target = target.removeprefix("/pipeline")
        elif self._multi_user and target.startswith("/apis/"):
            return Response(404)  # the gateway has no route for it
        if target.startswith("/apis/"):
            return self.api.answer(Request(request.method, target, request.headers, request.body), user)
        if request.path in ("/k8s/pod/logs", "/pipeline/k8s/pod/logs"):
            return self._show_log(dict(request.query))
        if request.method != "GET":
            return Response(404, f"Cannot {request.method} {request.path}")
        title = "Kubeflow Central Dashboard" if self._multi_user and not target.startswith("/pipeline") else "Pipelines"
        return page(f'<div id="root">{title}</div>')

    def _show_log(self, query: dict[str, str]) -> Response:
        text = self.logs.get((query.get("podnamespace", ""), query.get("podname", "")))
        plain = [("Content-Type", "text/plain; charset=utf-8")]
        return Response(404, "pod not found", plain) if text is None else Response(200, text, plain)


@contextlib.contextmanager
def kubeflow(
    sign_in: SignIn = "none",
    *,
    users: Mapping[str, str] | None = None,
    namespaces: Mapping[str, str | Iterable[str]] | None = None,
    tokens: Mapping[str, str] | None = None,
    multi_user: bool | None = None,
    tls: Authority | None = None,
    hosts: tuple[str, ...] = (),
    expired: bool = False,
    dex: Mapping[str, Any] | None = None,
    **gateway: Any,
) -> Iterator[Kubeflow]:
    """Starts a Kubeflow, and ends it.

    Args:
        sign_in: What stands in front: nothing, oauth2-proxy with Dex ("dex"), oidc-authservice with Dex, a login page
            that no one knows, or no Kubeflow at all.
        users: Passwords by e-mail address.
        namespaces: The namespace or namespaces of each user.
        tokens: For each token of a service account the namespace whose `default-editor` it is.
        multi_user: Whether there are several users; by default if there are namespaces or tokens.
        tls: The authority that vouches for the server; plain HTTP without.
        hosts: The names that its certificate is for, instead of this machine's.
        expired: Whether its certificate has expired.
        dex: More for `Dex`: connectors, approval, invalid_status.
        gateway: More for `OAuth2Proxy`: unauthenticated, api_routes.

    Yields:
        The Kubeflow.

    Raises:
        AssertionError: It did something itself that it should not; the client isn't to blame.
    """
    homes = {user: {one} if isinstance(one, str) else set(one) for user, one in (namespaces or {}).items()}
    accounts = {token: f"system:serviceaccount:{home}:default-editor" for token, home in (tokens or {}).items()}
    homes |= {account: {account.split(":")[2]} for account in accounts.values()}
    several = bool(homes) if multi_user is None else multi_user
    found = Kubeflow(Access(several, homes), dict(users or {}), accounts, dex or {})
    behind, sessions = found._behind, found.sessions
    if sign_in == "dex":
        found._gateway = OAuth2Proxy(behind, sessions, found.dex, bool(tls), **gateway)
    elif sign_in == "authservice":
        found._gateway = AuthService(behind, sessions, found.dex, bool(tls))
    elif sign_in == "none":
        found._gateway = Open(behind, sessions)
    else:
        found._gateway = Unknown() if sign_in == "unknown" else NoKubeflow()
    found._host = Host(found._front, tls.context(*hosts, expired=expired) if tls else None)
    found._host.start()
    try:
        yield found
    finally:
        found.faults.clear()
        found._host.stop()
    assert not (found._host.broken or found.api.broken), (found._host.broken, found.api.broken)
