"""`python -m benchmarks.load`: clients of a server, each of which asks again when its answer is in.

It shares the processors with the server that it measures. So it is a process of its own with one loop, sends bytes
that were encoded before, reads no more of an answer than it must to check it, and tells how much processor time
it took.
"""

import asyncio
import collections
import dataclasses
import itertools
import json
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PAUSE = 0.5  # seconds that a client waits after an error; a full queue would refuse thousands a second
DRAIN = 60.0  # seconds at most for the answers that are under way at the end


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a server is asked, and what it answers, as JSON.

    Attributes:
        request: Makes the body of a request for texts.
        predictions: Finds the texts' predictions in an answer's body.
        label: Reads the label, or the class id, in a prediction.
    """

    request: Callable[[list[str]], Any]
    predictions: Callable[[Any], list[Any]]
    label: Callable[[Any], str | int]


def most_probable(scores: list[dict[str, Any]]) -> str:
    """Returns the label with the highest score."""
    return str(max(scores, key=lambda each: each["score"])["label"])


PROTOCOLS = {
    "v1": Protocol(
        lambda texts: {"instances": texts},
        lambda answer: answer["predictions"],
        lambda prediction: prediction if isinstance(prediction, int) else prediction["label"],
    ),
    "v2": Protocol(  # as MLServer's transformers runtime speaks it
        lambda texts: {"inputs": [{"name": "args", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]},
        lambda answer: answer["outputs"][0]["data"],
        lambda prediction: json.loads(prediction)["label"],
    ),
    "infinity": Protocol(
        lambda texts: {"model": "bench", "input": texts}, lambda answer: answer["data"], most_probable
    ),
}


def encode_requests(url: str, protocol: Protocol, requests: list[list[str]]) -> list[tuple[bytes, int]]:
    """Returns the bytes of each request, a list of texts, and how many predictions its answer must hold."""
    parts = urllib.parse.urlsplit(url)
    encoded = []
    for texts in requests:
        body = json.dumps(protocol.request(texts)).encode()
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


class WrongAnswerError(ValueError):
    """An answer that is none."""


def read_predictions(protocol: Protocol, status: int, body: bytes, expected: int) -> list[Any]:
    """Returns the predictions of an answer; WrongAnswerError, in few words, where it holds not as many as expected."""
    if status != 200:
        raise WrongAnswerError(f"status {status}")
    try:
        predictions = protocol.predictions(json.loads(body))
        count = len(predictions)
    except (ValueError, LookupError, TypeError):
        raise WrongAnswerError("no predictions") from None
    if count != expected:
        raise WrongAnswerError(f"{count} predictions for {expected} instances")
    return predictions


class Load:
    """Clients that share requests, lists of texts, in their order."""

    def __init__(self, url: str, protocol: str, requests: list[list[str]], clients: int) -> None:
        self.address = urllib.parse.urlsplit(url)
        self.protocol = PROTOCOLS[protocol]
        self.encoded = encode_requests(url, self.protocol, requests)
        self.clients = clients
        self.latencies: list[float] = []
        self.labels: dict[int, list[str | int]] = {}
        self.errors: collections.Counter[str] = collections.Counter()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Opens a connection."""
        return await asyncio.open_connection(self.address.hostname, self.address.port)

    async def ask(self, numbers: Iterable[int], keep_labels: bool) -> None:
        """Asks as one client: a request, its answer, the next request, on one connection as long as there is one."""
        reader, writer = await self.connect()
        for number in numbers:
            # A server may close a connection after an answer, as TorchServe does when it refuses: that is no error.
            if reader.at_eof():
                writer.close()
                reader, writer = await self.connect()
            request, expected = self.encoded[number]
            began = time.perf_counter()
            try:
                writer.write(request)
                predictions = read_predictions(self.protocol, *await read_answer(reader), expected)
                self.latencies.append(time.perf_counter() - began)
                if keep_labels:
                    self.labels[number] = list(map(self.protocol.label, predictions))
            except (ValueError, OSError, EOFError) as error:
                self.errors[str(error) if isinstance(error, ValueError) else "connection lost"] += 1
                await asyncio.sleep(PAUSE)
        writer.close()

    async def ask_once(self) -> list[str | int]:
        """Asks for each request once and returns the labels of all texts; RuntimeError where one is not answered."""
        numbers = iter(range(len(self.encoded)))
        await asyncio.gather(*(self.ask(numbers, keep_labels=True) for _ in range(self.clients)))
        if self.errors:
            raise RuntimeError(f"not all was answered: {dict(self.errors)}")
        return [label for number in sorted(self.labels) for label in self.labels[number]]

    async def run(self, warm_up: float, seconds: float) -> dict[str, Any]:
        """Asks over and over for a while, and counts the answers that come in after so many seconds of warm-up.

        The errors are counted by kind; latencies are those of requests answered right (None where there are none), and
        `cpu_share` is this process's processor time a second.
        """
        done = False
        numbers = itertools.takewhile(lambda _: not done, itertools.cycle(range(len(self.encoded))))
        asking = asyncio.gather(*(self.ask(numbers, keep_labels=False) for _ in range(self.clients)))
        await asyncio.wait({asking}, timeout=warm_up)
        self.latencies, self.errors = [], collections.Counter()
        began, worked = time.perf_counter(), time.process_time()
        await asyncio.wait({asking}, timeout=seconds)
        elapsed, worked = time.perf_counter() - began, time.process_time() - worked
        latencies, errors = sorted(self.latencies), dict(self.errors)
        done = True
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
    # The address, the protocol's name, a JSON file with a list of requests, each a list of texts; clients; and seconds
    # of warm-up and of counting, or neither, to ask for each request once and print the labels.
    url, protocol, path, clients, *seconds = sys.argv[1:]
    try:
        load = Load(url, protocol, json.loads(Path(path).read_text(encoding="utf-8")), int(clients))
        print(json.dumps(asyncio.run(load.run(*map(float, seconds)) if seconds else load.ask_once())))
    except OSError as error:
        sys.exit(f"{url} can't be reached: {error}")
