"""Kubeflow as tests see it: what they set, and what they may ask."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from tests.fakes.httpd import Host, Request, Response, page
from tests.fakes.kfp.api import Api
from tests.fakes.kfp.faults import Faults
from tests.fakes.kfp.gateway import AuthService, Dex, OAuth2Proxy, Sessions, unknown_sign_in
from tests.fakes.tls import Authority

SignIn = Literal["none", "dex", "authservice", "unknown", "no kubeflow"]


class Kubeflow:
    """A Kubeflow, or what is taken for one: what is stored, what goes wrong on the way, who is signed in, and how."""

    gateway: Any  # what answers requests first
    host: Host

    def __init__(self, namespaces: dict[str, str], dex: Dex, tokens: dict[str, str]) -> None:
        self.api, self.faults, self.sessions, self.dex = Api(namespaces), Faults(), Sessions(tokens), dex
        self.visits: list[str] = []  # method and path of all requests, also those that a gateway answered
        self.logs: dict[tuple[str, str], str] = {}  # what a pod has printed, by its namespace and name

    @property
    def url(self) -> str:
        return self.host.url

    @property
    def passwords_sent(self) -> int:
        return sum(visit.startswith("POST /dex/auth/") for visit in self.visits)

    def stop(self) -> None:
        """Goes away: connecting is refused."""
        self.host.stop()

    def start(self) -> None:
        """Comes back on the same port."""
        self.host.start()

    def front(self, request: Request) -> Response | None:
        """Answers a request, or lets go wrong what is to."""
        name = f"{request.method} {request.path}"
        self.visits.append(name)
        return self.faults.around(name, lambda: self.gateway(request))

    def behind(self, request: Request, user: str) -> Response:
        """Answers what a gateway lets through."""
        target = request.target
        if target.startswith("/pipeline/apis/"):
            target = target.removeprefix("/pipeline")
        elif self.api.multi_user and target.startswith("/apis/"):
            return Response(404)  # the gateway has no route for it
        if target.startswith("/apis/"):
            return self.api.answer(Request(request.method, target, request.headers, request.body), user)
        if request.path in ("/k8s/pod/logs", "/pipeline/k8s/pod/logs"):
            query = dict(request.query)
            text = self.logs.get((query.get("podnamespace", ""), query.get("podname", "")))
            plain = [("Content-Type", "text/plain; charset=utf-8")]
            return Response(404, "pod not found", plain) if text is None else Response(200, text, plain)
        return page('<div id="root">Kubeflow Central Dashboard</div>')


@contextlib.contextmanager
def kubeflow(
    sign_in: SignIn = "none",
    *,
    users: Mapping[str, str] | None = None,
    namespaces: Mapping[str, str] | None = None,
    tokens: Mapping[str, str] | None = None,
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
        namespaces: The namespace of each user. There are several users if there are namespaces or tokens.
        tokens: For each token of a service account the namespace whose `default-editor` it is.
        tls: The authority that vouches for the server; plain HTTP without. Its certificate is for `hosts`.
        hosts: This machine unless others are named.
        expired: Whether the certificate has expired.
        dex: More for `Dex`.
        gateway: More for `OAuth2Proxy`.
    """
    accounts = {token: f"system:serviceaccount:{home}:default-editor" for token, home in (tokens or {}).items()}
    homes = {**(namespaces or {}), **{account: account.split(":")[2] for account in accounts.values()}}
    k = Kubeflow(homes, Dex(dict(users or {}), **(dex or {})), accounts)
    gateways: dict[str, Callable[[], Any]] = {
        "dex": lambda: OAuth2Proxy(k.behind, k.sessions, k.dex, bool(tls), **gateway).answer,
        "authservice": lambda: AuthService(k.behind, k.sessions, k.dex, bool(tls)).answer,
        # Where there are several users, only tokens make someone known.
        "none": lambda: lambda request: k.behind(request, k.sessions.of_bearer(request)),
        "unknown": lambda: unknown_sign_in,
        "no kubeflow": lambda: lambda request: page("<h1>It works!</h1>"),
    }
    k.gateway = gateways[sign_in]()
    k.host = Host(k.front, tls.context(*hosts, expired=expired) if tls else None)
    k.host.start()
    try:
        yield k
    finally:
        k.faults.clear()
        k.host.stop()
    assert not k.host.broken, k.host.broken
