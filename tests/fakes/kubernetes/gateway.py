"""The ingress: finds by the Host header which pods answer a request, and hands it on to the server behind them."""

import http.client
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from tests.fakes.kubernetes.children import Revision
from tests.fakes.kubernetes.controller import Controller
from tests.fakes.kubernetes.httpd import Answer

# Not handed on, as they are about one connection only.
OF_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection", "content-length"}
# Said by the gateway's own server.
OWN = {"server", "date"}
Routes = dict[str, list[tuple[Revision, int]]]


class Gateway:
    """Answers predictions as an Istio gateway does.

    Args:
        lock: Guards the cluster's state.
        controller: Tells what runs.
        answered: Takes host, release and status of every request that had a route.
    """

    def __init__(
        self, lock: AbstractContextManager[object], controller: Controller, answered: list[tuple[str, str, int]]
    ) -> None:
        self._lock, self._controller, self._answered = lock, controller, answered
        self._credits: dict[tuple[str, ...], list[int]] = {}

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Returns the answer of the chosen pods; a 404 with an empty body where there is no route."""
        host = {name.lower(): value for name, value in headers.items()}.get("host", "").partition(":")[0]
        with self._lock:
            revision = self._choose(host, routes_of(self._controller))
            if revision is None:
                return 404, {}, b""
            refused = revision.refused < revision.fate.unready_answers
            revision.refused += refused
            backend, release = revision.fate.backend, revision.release
        if refused:
            answer: Answer = revision.fate.unready_status, {}, b""
        elif backend is None:
            answer = 503, {}, b"no healthy upstream"
        else:
            answer = forward(backend, method, target, headers, body)
        with self._lock:
            self._answered.append((host, release, answer[0]))
        return answer

    def _choose(self, host: str, routes: Routes) -> Revision | None:
        """Chooses in turn, so that of each hundred requests exactly as many as wanted go where they should."""
        if not routes.get(host):
            return None
        targets = routes[host]
        total = sum(percent for _, percent in targets)
        key = (host, *(f"{one.name} {percent}" for one, percent in targets))
        credit = self._credits.setdefault(key, [0] * len(targets))
        for at, (_, percent) in enumerate(targets):
            credit[at] += percent
        chosen = credit.index(max(credit))
        credit[chosen] -= total
        return targets[chosen][0]


def routes_of(controller: Controller) -> Routes:
    """Returns what answers under each host name, outside and in the cluster."""
    found: Routes = {}
    for world in controller.worlds.values():
        if world.child is None:
            continue
        name, namespace = world.service["metadata"]["name"], world.service["metadata"]["namespace"]
        inside = [f"{namespace}.svc.cluster.local", f"{namespace}.svc", namespace]
        knative = controller.mode(world.service) == "Knative"
        for of_component, targets in world.child.routes().items():
            names = [of_component]
            if of_component == world.child.name and world.published:
                names.append(name)
            for one in names:
                outside = f"{one}.{namespace}.example.com" if knative else f"{one}-{namespace}.example.com"
                if knative or world.published:
                    found[outside] = targets
                if knative or one == of_component:
                    found |= {f"{one}.{domain}": targets for domain in inside}
    return found


def forward(backend: str, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
    """Returns what a real server answers."""
    connection = http.client.HTTPConnection(urlsplit(backend).netloc, timeout=60)
    try:
        kept = {name: value for name, value in headers.items() if name.lower() not in OF_CONNECTION}
        connection.request(method, target, body or None, kept)
        answer = connection.getresponse()
        told = {name: value for name, value in answer.getheaders() if name.lower() not in OF_CONNECTION | OWN}
        return answer.status, told, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 503, {}, f"upstream connect error: {error}".encode()
    finally:
        connection.close()
