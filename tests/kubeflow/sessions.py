"""Who is signed in: sessions that a gateway opened, which end when tests say so, and tokens of service accounts."""

import secrets
import threading


class Sessions:
    """The sessions and tokens that a gateway knows.

    Args:
        tokens: The user of each token.

    Attributes:
        opened: How many sessions were ever opened.
    """

    def __init__(self, tokens: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, str] = {}
        self._left: int | None = None
        self.tokens = tokens
        self.opened = 0

    def open(self, user: str, length: int) -> str:
        """Opens a session, and returns what the client is to keep."""
        with self._lock:
            self.opened += 1
            key = secrets.token_hex(length // 2)
            self._users[key] = user
            return key

    def user(self, key: str) -> str:
        """Returns whose session it is; nothing if there is none."""
        with self._lock:
            if key in self._users and self._left is not None:
                if self._left == 0:
                    self._users.clear()
                    self._left = None
                else:
                    self._left -= 1
            return self._users.get(key, "")

    def of_bearer(self, header: str) -> str:
        """Returns the user of an Authorization header; nothing if its token isn't known."""
        kind, _, token = header.partition(" ")
        return self.tokens.get(token.strip(), "") if kind.lower() == "bearer" else ""

    def expire(self) -> None:
        """Ends all sessions."""
        with self._lock:
            self._users.clear()

    def expire_after(self, requests: int) -> None:
        """Ends all sessions once there were so many more requests in them."""
        with self._lock:
            self._left = requests
