"""What a request asks for, once its address is understood."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request to the API.

    Attributes:
        user: Who asks, as the gateway in front says.
        path: What the path names, in order.
        query: The query, by names.
        body: The JSON document; empty where there is none.
        file: Name and content of an uploaded file.
    """

    user: str
    path: tuple[str, ...]
    query: dict[str, str]
    body: dict[str, Any]
    file: tuple[str, bytes] | None = None
