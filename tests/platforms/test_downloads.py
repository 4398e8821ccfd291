"""What is known of downloaded files: whether they are whole, whether they can be there at once, and which they are."""

import hashlib
import random
from pathlib import Path

import pytest

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.platforms.downloads import MIB, NOTES, Item, check_content, choose_files, find_artifacts

BIG = random.Random(1).randbytes(3 * MIB)


def etag_of(content: bytes, part: int) -> str:
    digests = [hashlib.md5(content[at : at + part]).digest() for at in range(0, len(content), part)]
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"


@pytest.mark.parametrize(
    ("content", "etag", "how"),
    [
        (BIG, hashlib.md5(BIG).hexdigest(), "md5"),
        (BIG, hashlib.md5(b"").hexdigest(), ""),
        (b"", hashlib.md5(b"").hexdigest(), "md5"),
        (BIG, etag_of(BIG, len(BIG)), "md5 of parts"),
        (BIG, etag_of(BIG, 5 * MIB), "md5 of parts"),
        (BIG, etag_of(BIG, MIB), "size"),
        (BIG, "", "size"),
        (BIG, "of-another-kind", "size"),
        # Parts that end where the file does.
        *[(bytes(size), etag_of(bytes(size), 5 * MIB), "md5 of parts") for size in (5 * MIB, 10 * MIB, 10 * MIB + 1)],
    ],
)
def test_checking_content(tmp_path: Path, content: bytes, etag: str, how: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert check_content(path, len(content), etag) == how
    assert check_content(path, len(content) + 1, etag) == ""


@pytest.mark.parametrize("names", [("t/a", "t/a/b"), ("t/a", "t/A"), ("t/a", "t/a.part"), ("T/a", "t/a/b")])
def test_names_that_cannot_be_beside_each_other(names: tuple[str, ...]) -> None:
    with pytest.raises(PipelineError, match="download them apart"):
        choose_files([Item("", name, 1, "") for name in names])


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "a/../../x", "a/..", "./x", "/etc/x", "a//b", "..\\x", "C:x", "a/con", "a/NUL.txt"),
        *("a\nb", "a\x00b", "a\x1b[2J", "a/\x9b", NOTES, f"{NOTES}.new", "..", "."),
    ],
)
def test_names_that_lead_elsewhere_are_left_out(name: str) -> None:
    good, odd, folder = Item("y", "good/one", 1, ""), Item(name, name, 1, ""), Item("z", "good/", 0, "")
    assert choose_files([odd, folder, good]) == ([good], [repr(name)])


def test_the_kinds_that_people_want() -> None:
    an_id = "10000000-0000-4000-8000-000000000001"
    paths = ["evaluate-model/report", f"train-model/{an_id}/model/x", "archive-model/release", "else/metrics"]
    assert find_artifacts([Item("", path, 1, "") for path in paths]) == {
        "report": "evaluate-model/report",
        "model": f"train-model/{an_id}/model",
        "archive": "archive-model/release",
    }
