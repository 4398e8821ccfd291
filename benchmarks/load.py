"""`python -m benchmarks.load`: clients of a KServe v1 endpoint, each of which asks again when its answer is in.

It shares the processors with the server that it measures. So it is a process of its own with one loop, sends bytes
that were encoded before, reads no more of an answer than it must to check it, and tells how much processor time
it took.
"""

import asyncio
import collections
import itertools
import json
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

PAUSE = 0.5  # seconds that a client waits after an error; a full queue would refuse thousands a second
DRAIN = 60.0  # seconds at most for the answers that are under way at the end


def encode_requests(url: str, requests: list[list[str]]) -> list[tuple[bytes, int]]:
    """Returns the bytes of each request, a list of texts, and how many predictions its answer must hold."""
    parts = urllib.parse.urlsplit(url)
    encoded = []
    for texts in requests:
        body = json.dumps({"instances": texts}).encode()
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        encoded.append((f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, len(texts)))
    return encoded


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Returns the status and the body of an answer; ValueError where it has no Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    at = head.find(b"content-length:")
    if at < 0:
        raise ValueError("an answer with no length")
    return int(head[9:12]), await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))


def fault(status: int, body: bytes, expected: int) -> str:
    """Returns what is wrong with an answer, in few words; nothing where all is well."""
    if status != 200:
        return f"status {status}"
    try:
        found = json.loads(body)["predictions"]
        return "" if len(found) == expected else f"{len(found)} predictions for {expected} instances"
    except (ValueError, LookupError, TypeError):
        return "no predictions"


class Load:
    """Clients that ask for one list of requests, over and over, in its order."""

    def __init__(self, url: str, requests: list[list[str]], clients: int) -> None:
        self.address = urllib.parse.urlsplit(url)
        self.requests = itertools.cycle(encode_requests(url, requests))
        self.clients = clients
        self.latencies: list[float] = []
        self.errors: collections.Counter[str] = collections.Counter()
        self.asking = True

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Opens a connection."""
        return await asyncio.open_connection(self.address.hostname, self.address.port)

    async def ask(self) -> None:
        """Asks as one client: a request, its answer, the next request, on one connection as long as there is one."""
        reader, writer = await self.connect()
        while self.asking:
            # A server may close a connection after an answer, as TorchServe does when it refuses: that is no error.
            if reader.at_eof():
                writer.close()
                reader, writer = await self.connect()
            request, expected = next(self.requests)
            began = time.perf_counter()
            try:
                writer.write(request)
                reason = fault(*await read_answer(reader), expected)
            except ValueError as error:
                reason = str(error)
            except (OSError, EOFError):
                reason = "connection lost"
            if reason:
                self.errors[reason] += 1
                await asyncio.sleep(PAUSE)
            else:
                self.latencies.append(time.perf_counter() - began)
        writer.close()

    async def run(self, warm_up: float, seconds: float) -> dict[str, Any]:
        """Asks for a while, and counts the answers that come in after so many seconds of warm-up.

        The errors are counted by kind; latencies are those of requests answered right (None where there are none), and
        `cpu_share` is this process's processor time a second.
        """
        asking = asyncio.gather(*(self.ask() for _ in range(self.clients)))
        await asyncio.wait({asking}, timeout=warm_up)
        self.latencies, self.errors = [], collections.Counter()
        began, worked = time.perf_counter(), time.process_time()
        await asyncio.wait({asking}, timeout=seconds)
        elapsed, worked = time.perf_counter() - began, time.process_time() - worked
        latencies, errors = sorted(self.latencies), dict(self.errors)
        self.asking = False
        await asyncio.wait_for(asking, DRAIN)  # so that the server is idle afterwards
        return {
            "requests": len(latencies),
            "errors": errors,
            "requests_per_second": len(latencies) / elapsed,
            "p50_ms": percentile(latencies, 50),
            "p99_ms": percentile(latencies, 99),
            "cpu_share": worked / elapsed,
        }


def percentile(ordered: list[float], share: int) -> float | None:
    """Returns a percentile of seconds in order, in milliseconds; None where there are none."""
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * share // 100)] if ordered else None


if __name__ == "__main__":
    # The address, a JSON file with a list of requests, each a list of texts; clients; seconds of warm-up and counting.
    url, path, clients, *seconds = sys.argv[1:]
    try:
        load = Load(url, json.loads(Path(path).read_text(encoding="utf-8")), int(clients))
        print(json.dumps(asyncio.run(load.run(*map(float, seconds)))))
    except OSError as error:
        sys.exit(f"{url} can't be reached: {error}")
