"""What is known of downloaded files: whether they are whole, whether they can be files here, and which they are."""

import hashlib
from pathlib import Path

import pytest

from nlp_pipeline.platforms.downloads import Item, choose_files, find_artifacts, is_whole

CONTENT = b"some content"
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.mark.parametrize(
    ("etag", "whole"),
    [(MD5, True), (hashlib.md5(b"").hexdigest(), False), (f"{MD5}-3", True), ("", True), ("of-another-kind", True)],
)
def test_a_file_is_whole_by_its_size_and_its_md5(tmp_path: Path, etag: str, whole: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert is_whole(path, Item("", "", len(CONTENT), etag)) is whole
    assert not is_whole(path, Item("", "", len(CONTENT) + 1, etag))
    assert not is_whole(tmp_path / "absent", Item("", "", len(CONTENT), etag))


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "a/../../x", "a/..", "./x", "/etc/x", "a//b", "..\\x", "C:x"),
        *("a\nb", "a\x00b", "a\x1b[2J", "a/\x9b", "..", "."),
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
