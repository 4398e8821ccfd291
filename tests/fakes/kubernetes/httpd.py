"""Servers on free ports that end with the context that started them."""

import contextlib
from collections.abc import Callable, Iterator

from tests.fakes.httpd import Host, Request, Response

Answer = tuple[int, dict[str, str], bytes]


@contextlib.contextmanager
def serving(answering: Callable[[str, str, dict[str, str], bytes], Answer]) -> Iterator[str]:
    """Serves on a free port of this machine.

    Args:
        answering: Returns status, headers and body for a method, a path with its query, headers by their names in lower
            case, and a body.

    Yields:
        The server's address, as in `http://127.0.0.1:40000`.
    """

    def answer(request: Request) -> Response:
        status, headers, body = answering(request.method, request.target, request.headers, request.body)
        return Response(status, body, list(headers.items()))

    host = Host(answer)
    host.start()
    try:
        yield host.url
    finally:
        host.stop()
    assert not host.broken
