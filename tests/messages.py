"""What errors say."""

import pytest


def one_line(error: pytest.ExceptionInfo[BaseException], kind: type[Exception], *secrets: str) -> str:
    """Returns an error's message, having made sure that it is one line, of its kind, without secrets."""
    assert type(error.value) is kind
    message = str(error.value)
    assert "\n" not in message
    for secret in secrets:
        assert secret not in message
    return message
