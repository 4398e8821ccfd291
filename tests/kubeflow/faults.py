"""What goes wrong between a client and the server, when tests say so."""

import dataclasses
import json
import re
import threading
from collections.abc import Callable

from tests.kubeflow.httpd import Response

PATIENCE = 30.0
API = "/apis/"


@dataclasses.dataclass
class _Fault:
    on: str
    times: int
    after: bool
    response: Response | None


class Hold:
    """A request that is kept waiting.

    Attributes:
        reached: Is set as soon as there is one.
    """

    def __init__(self, on: str) -> None:
        self.on = on
        self.reached = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        """Lets it go on."""
        self._released.set()

    def wait(self) -> None:
        """Waits to be released."""
        self.reached.set()
        self._released.wait(PATIENCE)


class Faults:
    """What goes wrong with the next requests; `on` is looked for in `METHOD /path`, as in `POST .*/runs$`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._holds: list[Hold] = []

    def fail(
        self,
        status: int = 500,
        times: int = 1,
        on: str = API,
        after: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answers the next requests with an error.

        Args:
            status: A status; 502, 503 and 504 come as the gateway's text, others as the server's JSON.
            times: How many requests.
            on: Which requests.
            after: Whether what was asked for is done nevertheless.
            headers: More headers, as in `{"Retry-After": "1"}`.
        """
        if status in (502, 503, 504):
            body, kind = (
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
                "text/plain",
            )
        else:
            body, kind = json.dumps({"code": 13, "message": "Internal Server Error", "details": []}), "application/json"
        response = Response(status, body, [("Content-Type", kind), *(headers or {}).items()])
        self._add(_Fault(on, times, after, response))

    def drop(self, times: int = 1, on: str = API, after: bool = False) -> None:
        """Drops the connections of the next requests, before or after what was asked for is done."""
        self._add(_Fault(on, times, after, None))

    def hold(self, on: str = API) -> Hold:
        """Keeps the next request waiting until it is released."""
        hold = Hold(on)
        with self._lock:
            self._holds.append(hold)
        return hold

    def clear(self) -> None:
        """Takes back what was to come, and lets go on what waits."""
        with self._lock:
            holds, self._holds, self._faults = self._holds, [], []
        for hold in holds:
            hold.release()

    @property
    def left(self) -> int:
        """How many requests are yet to go wrong."""
        with self._lock:
            return sum(fault.times for fault in self._faults)

    def around(self, name: str, make: Callable[[], Response | None]) -> Response | None:
        """Returns the answer of a request, or what a fault makes of it."""
        with self._lock:
            hold = next((one for one in self._holds if re.search(one.on, name) and not one.reached.is_set()), None)
            if hold:
                hold.reached.set()
            fault = next((one for one in self._faults if one.times and re.search(one.on, name)), None)
            if fault:
                fault.times -= 1
        if hold:
            hold.wait()
        if fault is None:
            return make()
        if fault.after:
            make()
        return fault.response

    def _add(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)
