"""HTTP servers, also over TLS, that can drop a connection, go away, and come back on the same port."""

import contextlib
import dataclasses
import http.cookies
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    target: str  # the path with its query, as sent
    headers: dict[str, str]  # by names in lower case
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path without its query, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> list[tuple[str, str]]:
        """Names and values of the query, in order."""
        return urllib.parse.parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies by name."""
        result: http.cookies.SimpleCookie = http.cookies.SimpleCookie(self.headers.get("cookie", ""))
        return {name: item.value for name, item in result.items()}

    @property
    def form(self) -> dict[str, str]:
        """Fields of a form's content."""
        return dict(urllib.parse.parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True))


@dataclasses.dataclass
class Response:
    """What a server answers; headers may come more than once."""

    status: int
    body: bytes | str = b""
    headers: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def redirect(to: str, status: int = 302, headers: list[tuple[str, str]] | None = None) -> Response:
    """Returns a redirection."""
    return Response(status, "", [("Location", to), *(headers or [])])


def page(html: str, status: int = 200, headers: list[tuple[str, str]] | None = None) -> Response:
    """Returns an HTML page."""
    whole = f"<!DOCTYPE html>\n<html>\n<head><title>Stand-in</title></head>\n<body>\n{html}\n</body>\n</html>\n"
    return Response(status, whole, [("Content-Type", "text/html; charset=utf-8"), *(headers or [])])


Answering = Callable[[Request], Response | None]


class _Server(ThreadingHTTPServer):
    """Knows its connections, to end those that clients keep open."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self._tls = tls
        self._open: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._tls:
            # The handshake is left to the connection's own thread.
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keeps quiet about clients that went away or didn't trust the certificate."""

    def end(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Host:
    """A server on a port of this machine, that may go away and come back; an answer of None drops the connection."""

    def __init__(self, answering: Answering, tls: ssl.SSLContext | None = None) -> None:
        self._answering, self._tls = answering, tls
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0
        self._reserved: socket.socket | None = None
        self.broken: list[Exception] = []  # what answering raised; clients got a 500

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Serves: at first on any free port, then again on the same."""
        if self._reserved:
            self._reserved.close()
        self._server = _Server(self._port, self._handler(), self._tls)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Ends the server and every connection; connecting is refused from then on, and no one else gets the port."""
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server.end()
            self._server = self._thread = None
            self._reserved = socket.socket()
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.bind(("127.0.0.1", self._port))

    def _answer(self, request: Request) -> Response | None:
        try:
            return self._answering(request)
        except Exception as error:  # noqa: BLE001  # a mistake of the stand-in's: told when the test ends
            self.broken.append(error)
            return Response(500, f"the stand-in broke: {error!r}")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are written one after the other: Nagle's algorithm would hold the body back for 40 ms.
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                if len(body) < length:  # the client was ended meanwhile
                    self.close_connection = True
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                response = host._answer(Request(self.command, self.path, headers, body))
                if response is None:
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                content = response.body.encode() if isinstance(response.body, str) else response.body
                self.send_response(response.status)
                for name, value in response.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *values: object) -> None:
                """Keeps quiet."""

        return Handler
