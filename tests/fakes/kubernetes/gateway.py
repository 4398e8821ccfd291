"""The ingress: finds by the Host header which pods answer a request, and hands it on to the server behind them."""

import http.client
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from tests.fakes.kubernetes.httpd import Answer
from tests.fakes.kubernetes.kserve import Revision, World

# About one connection only, or said by the gateway's own server.
NOT_HANDED_ON = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}


class Gateway:
    """Answers predictions as an Istio gateway does.

    Args:
        lock: Guards the cluster's state.
        worlds: Tells what runs.
        answered: Takes host, release and status of every request that had a route.
    """

    def __init__(
        self,
        lock: AbstractContextManager[object],
        worlds: Callable[[], Iterable[World]],
        answered: list[tuple[str, str, int]],
    ) -> None:
        self._lock, self._worlds, self._answered = lock, worlds, answered
        self._credits: dict[tuple[str, ...], list[int]] = {}

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Returns the answer of the chosen pods; a 404 with an empty body where there is no route."""
        host = headers.get("host", "").partition(":")[0]
        with self._lock:
            revision = self._choose(host)
            if revision is None:
                return 404, {}, b""
            refused = revision.refused < revision.fate.unready_answers
            revision.refused += refused
        if refused:
            answer: Answer = revision.fate.unready_status, {}, b""
        elif revision.fate.backend is None:
            answer = 503, {}, b"no healthy upstream"
        else:
            answer = forward(revision.fate.backend, method, target, headers, body)
        with self._lock:
            self._answered.append((host, revision.release, answer[0]))
        return answer

    def _choose(self, host: str) -> Revision | None:
        """Chooses in turn, so that of each hundred requests exactly as many as wanted go where they should."""
        targets = next((found for world in self._worlds() if (found := world.routes().get(host))), None)
        if targets is None:
            return None
        key = (host, *(f"{one.name} {percent}" for one, percent in targets))
        credit = self._credits.setdefault(key, [0] * len(targets))
        for at, (_, percent) in enumerate(targets):
            credit[at] += percent
        chosen = credit.index(max(credit))
        credit[chosen] -= sum(percent for _, percent in targets)
        return targets[chosen][0]


def forward(backend: str, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
    """Returns what a real server answers."""
    connection = http.client.HTTPConnection(urlsplit(backend).netloc, timeout=60)
    try:
        kept = {name: value for name, value in headers.items() if name not in NOT_HANDED_ON}
        connection.request(method, target, body or None, kept)
        answer = connection.getresponse()
        said = {name: value for name, value in answer.getheaders() if name.lower() not in NOT_HANDED_ON}
        return answer.status, said, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 503, {}, f"upstream connect error: {error}".encode()
    finally:
        connection.close()
