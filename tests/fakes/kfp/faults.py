"""What goes wrong between a client and the server, when tests say so."""

import dataclasses
import json
import re
import threading
from collections.abc import Callable

from tests.fakes.httpd import Response

API = "/apis/"
OVERFLOW = "upstream connect error or disconnect/reset before headers. reset reason: overflow"


@dataclasses.dataclass
class _Fault:
    on: str
    times: int
    after: bool
    response: Response | None


class Hold:
    """A request that is kept waiting; `reached` is set as soon as there is one."""

    def __init__(self, on: str) -> None:
        self.on, self.reached, self.released = on, threading.Event(), threading.Event()
        self.release = self.released.set


class Faults:
    """What goes wrong with the next requests; `on` is looked for in `METHOD /path`, as in `POST .*/runs$`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._holds: list[Hold] = []

    def fail(self, status: int = 500, times: int = 1, on: str = API, after: bool = False) -> None:
        """Answers the next requests with an error; with `after`, what was asked for is done nevertheless.

        502, 503 and 504 come as the gateway's text, others as the server's JSON.
        """
        message = json.dumps({"code": 13, "message": "Internal Server Error", "details": []})
        response = Response(status, OVERFLOW if status in (502, 503, 504) else message)
        self._faults.append(_Fault(on, times, after, response))

    def drop(self, times: int = 1, on: str = API, after: bool = False) -> None:
        """Drops the connections of the next requests, before or after what was asked for is done."""
        self._faults.append(_Fault(on, times, after, None))

    def hold(self, on: str = API) -> Hold:
        self._holds.append(Hold(on))
        return self._holds[-1]

    def clear(self) -> None:
        with self._lock:
            holds, self._holds, self._faults = self._holds, [], []
        for hold in holds:
            hold.release()

    @property
    def left(self) -> int:
        return sum(fault.times for fault in self._faults)

    def around(self, name: str, make: Callable[[], Response | None]) -> Response | None:
        """Returns the answer of a request, or what a fault makes of it."""
        with self._lock:
            hold = next((hold for hold in self._holds if re.search(hold.on, name) and not hold.reached.is_set()), None)
            if hold:
                hold.reached.set()
            fault = next((fault for fault in self._faults if fault.times and re.search(fault.on, name)), None)
            if fault:
                fault.times -= 1
        if hold:
            hold.released.wait(30)
        answer = make() if fault is None or fault.after else None
        return answer if fault is None else fault.response
