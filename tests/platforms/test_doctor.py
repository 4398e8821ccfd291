"""How a doctor's findings are printed."""

import pytest

from nlp_pipeline.platforms.doctor import Finding, missing, print_findings

FINDINGS = [
    Finding(True, "it answers", name="server"),
    Finding(False, "there is none", "make one", name="claim"),
    Finding(False, "one node", "use another", required=False, name="mode"),
    Finding(None, "é", "unused", name="clock"),
]


def test_printing(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings(FINDINGS)
    assert capsys.readouterr().out.splitlines() == [
        "✓ server  it answers",
        "✗ claim   there is none: make one",
        "✗ mode    one node (a run can do without): use another",
        "– clock   é",  # noqa: RUF001
    ]
    assert missing(FINDINGS) == ["claim"]
