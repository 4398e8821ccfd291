"""A proxy in front of an S3 server, that notes what is asked, and cuts and alters what comes."""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What is not handed on.
HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class S3Proxy:
    """The proxy, and what it alters."""

    url: str = ""
    gets: list[tuple[str, str]] = field(default_factory=list)  # path and Range of each request for an object
    cuts: list[int] = field(default_factory=list)  # after how many bytes the next transfers of objects break off
    before: Callable[[], None] = lambda: None  # called before each request for an object is handed on
    headers: dict[str, str] = field(default_factory=dict)  # more of the answers
    flips: bool = False  # whether the first byte of objects is another one
    renames: dict[bytes, bytes] = field(default_factory=dict)  # what stands for what else in listings


class Handler(BaseHTTPRequestHandler):
    """Hands requests on; the class of each proxy's own has its attributes."""

    proxy: S3Proxy
    address: str
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        proxy = self.proxy
        is_object = self.command == "GET" and "?" not in self.path
        if is_object:
            proxy.gets.append((self.path, self.headers.get("Range", "")))
            proxy.before()
        status, headers, body = self.answer()
        if is_object and proxy.flips and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        for name, other in proxy.renames.items() if not is_object else ():
            body = body.replace(name, other)
        self.send_response(status)
        for header, value in {**headers, **proxy.headers}.items():
            if header.lower() not in HOP:
                self.send_header(header, value)
        self.send_header("Content-Length", headers["Content-Length"] if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if is_object and proxy.cuts:
            body = body[: proxy.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Returns what the server answers."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection = http.client.HTTPConnection(self.address, timeout=30)
        # The Host header stays: it is part of what is signed.
        connection.request(self.command, self.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), body

    def log_message(self, format: str, *values: object) -> None:
        """Keeps quiet."""


@contextlib.contextmanager
def s3_proxy(address: str) -> Iterator[S3Proxy]:
    """Starts a proxy in front of the server at an address, and ends it."""
    proxy = S3Proxy()
    handler = type("Handler", (Handler,), {"proxy": proxy, "address": address})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
