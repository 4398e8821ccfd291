"""How a doctor's checks are printed."""

import io

import pytest

from nlp_pipeline.platforms.doctor import Check, missing, print_checks

CHECKS = [
    Check("server", True, True, "it answers"),
    Check("claim", False, True, "there is none", "make one"),
    Check("image", False, False, "latest", "give it a tag"),
    Check("clock", None, False, "é", "unused"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_printing(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    print_checks(CHECKS, stream)
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    good, bad, unknown = ("✓", "✗", "–") if encoding == "utf-8" else ("+", "x", "-")  # noqa: RUF001
    assert stream.buffer.getvalue().decode(encoding).splitlines() == [
        f"{good} server  it answers",
        f"{bad} claim   there is none: make one",
        f"{bad} image   latest (a run can do without): give it a tag",
        f"{unknown} clock   " + ("\\xe9" if encoding == "ascii" else "é"),
    ]
    assert missing(CHECKS) == ["claim"]
