"""`python -m benchmarks.load`: clients of a KServe v1 endpoint, each of which asks again when its answer is in.

It shares the processors with the server that it measures. So it is a process of its own with one loop, sends bytes
that were encoded before, reads no more of an answer than it must to check it, and tells how much processor time
it took.
"""

import argparse
import collections
import json
import selectors
import socket
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

PAUSE = 0.5  # seconds that a client waits after an error; a full queue would refuse thousands a second
DRAIN = 60.0  # seconds at most for the answers that are under way at the end


def encode_requests(url: str, requests: list[list[str]]) -> list[tuple[bytes, int]]:
    """Returns the bytes of each request, and how many predictions its answer must hold.

    Args:
        url: The model's address, `http://host:port/v1/models/<name>:predict`.
        requests: The texts of each request.
    """
    parts = urllib.parse.urlsplit(url)
    encoded = []
    for texts in requests:
        body = json.dumps({"instances": texts}).encode()
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        encoded.append((f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, len(texts)))
    return encoded


def split_answer(received: bytearray) -> tuple[int, bytes] | None:
    """Returns the status and the body of an answer; None while there is more to come.

    Raises:
        ValueError: It is no answer with a Content-Length.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    at = head.find(b"content-length:")
    if at < 0 or not head.startswith(b"http/1.1 "):
        raise ValueError("an answer with no length")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0])
    if len(received) < end + 4 + length:
        return None
    return int(head[9:12]), bytes(received[end + 4 : end + 4 + length])


def fault(status: int, body: bytes, expected: int) -> str:
    """Returns what is wrong with an answer, in few words; nothing where all is well."""
    if status != 200:
        return f"status {status}"
    try:
        found = json.loads(body)["predictions"]
        return "" if len(found) == expected else f"{len(found)} predictions for {expected} instances"
    except (ValueError, LookupError, TypeError):
        return "no predictions"


class Client:
    """One connection, kept as long as the server keeps it: a request, its answer, the next request."""

    def __init__(self, address: tuple[str, int], selector: selectors.BaseSelector) -> None:
        self.address, self.selector = address, selector
        self.connect()

    def connect(self) -> None:
        """Opens the connection."""
        self.received = bytearray()
        self.unsent = memoryview(b"")
        self.under_way = False
        self.socket = socket.create_connection(self.address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.selector.register(self.socket, selectors.EVENT_READ, self)

    def close(self) -> None:
        """Closes the connection."""
        self.selector.unregister(self.socket)
        self.socket.close()

    def send(self, request: tuple[bytes, int]) -> None:
        """Starts to send a request."""
        self.unsent, self.expected = memoryview(request[0]), request[1]
        self.under_way = True
        self.began = time.perf_counter()
        self.send_rest()

    def send_rest(self) -> None:
        """Sends what the socket takes; the loop calls again when it takes more."""
        try:
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.unsent = memoryview(b"")  # the loop finds the connection closed
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.unsent else 0)
        if self.selector.get_key(self.socket).events != wanted:
            self.selector.modify(self.socket, wanted, self)

    def receive(self) -> str | None:
        """Reads what has come.

        Returns:
            None while there is no answer, or more of it to come; then what is wrong with it, or nothing.
        """
        answer, reason = None, "connection lost"
        try:
            part = self.socket.recv(262144)
            self.received += part
            answer = split_answer(self.received)
        except BlockingIOError:
            return None
        except OSError:
            part = b""
        except ValueError as error:
            part, reason = b"", str(error)
        if answer and self.under_way:
            self.received.clear()
            self.under_way = False
            return fault(*answer, self.expected)
        if part:
            return None
        # A server may close a connection after an answer, as TorchServe does when it refuses: that is no error.
        lost = self.under_way
        self.close()
        self.connect()
        return reason if lost else None


class Load:
    """Clients that ask for one list of requests, over and over, in its order."""

    def __init__(self, url: str, requests: list[list[str]], clients: int) -> None:
        parts = urllib.parse.urlsplit(url)
        self.requests = encode_requests(url, requests)
        self.next = 0
        self.selector = selectors.DefaultSelector()
        address = (parts.hostname or "", parts.port or 80)
        self.clients = [Client(address, self.selector) for _ in range(clients)]
        self.waiting: collections.deque[tuple[float, Client]] = collections.deque()
        self.latencies: list[float] = []
        self.errors: collections.Counter[str] = collections.Counter()

    def ask(self, client: Client) -> None:
        """Gives a client the next request."""
        client.send(self.requests[self.next])
        self.next = (self.next + 1) % len(self.requests)

    def step(self, until: float, asking: bool) -> None:
        """Waits for what happens next, and sees to it.

        Args:
            until: When to come back at the latest.
            asking: Whether a client whose answer is in asks again.
        """
        first = min(until, self.waiting[0][0]) if self.waiting else until
        for key, events in self.selector.select(max(0.0, first - time.perf_counter())):
            client: Client = key.data
            if events & selectors.EVENT_WRITE:
                client.send_rest()
            reason = client.receive() if events & selectors.EVENT_READ else None
            if reason is None:
                continue
            now = time.perf_counter()
            if reason:
                self.errors[reason] += 1
                self.waiting.append((now + PAUSE, client))
            else:
                self.latencies.append(now - client.began)
                if asking:
                    self.ask(client)
        while asking and self.waiting and self.waiting[0][0] <= time.perf_counter():
            self.ask(self.waiting.popleft()[1])

    def run(self, warm_up: float, seconds: float) -> dict[str, Any]:
        """Asks for a while, and tells of the answers that came in after the warm-up.

        Args:
            warm_up: Seconds before anything is counted.
            seconds: Seconds of counting.

        Returns:
            `requests` answered right and `errors` by kind; `requests_per_second`, `p50_ms` and `p99_ms` of those
            answered right (None where there are none); `cpu_share`, this process's processor time a second.
        """
        for client in self.clients:
            self.ask(client)
        until = time.perf_counter() + warm_up
        while time.perf_counter() < until:
            self.step(until, asking=True)
        self.latencies, self.errors = [], collections.Counter()
        began, worked = time.perf_counter(), time.process_time()
        until = began + seconds
        while time.perf_counter() < until:
            self.step(until, asking=True)
        elapsed, worked = time.perf_counter() - began, time.process_time() - worked
        latencies, errors = sorted(self.latencies), dict(self.errors)
        self.drain()
        return {
            "requests": len(latencies),
            "errors": errors,
            "requests_per_second": len(latencies) / elapsed,
            "p50_ms": percentile(latencies, 50),
            "p99_ms": percentile(latencies, 99),
            "cpu_share": worked / elapsed,
        }

    def drain(self) -> None:
        """Waits for the answers that are under way, so that the server is idle afterwards, and ends the connections."""
        until = time.perf_counter() + DRAIN
        while any(client.under_way for client in self.clients) and time.perf_counter() < until:
            self.waiting.clear()
            self.step(until, asking=False)
        for client in self.clients:
            client.close()
        self.selector.close()


def percentile(ordered: list[float], share: int) -> float | None:
    """Returns a percentile of seconds in order, in milliseconds; None where there are none."""
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * share // 100)] if ordered else None


def main() -> None:
    """Reads the command line, asks, and prints what came of it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("url", help="http://host:port/v1/models/<name>:predict")
    parser.add_argument("requests", type=Path, help="a JSON file: a list of requests, each a list of texts")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    try:
        load = Load(args.url, json.loads(args.requests.read_text(encoding="utf-8")), args.clients)
        print(json.dumps(load.run(args.warm_up, args.seconds)))
    except OSError as error:
        sys.exit(f"{args.url} can't be reached: {error}")


if __name__ == "__main__":
    main()
