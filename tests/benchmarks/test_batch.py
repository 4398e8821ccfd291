"""What the bench measures of `--batch`, with a tiny model."""

from pathlib import Path

import pytest

from benchmarks import batch
from benchmarks.limit import IN_PROCESS
from benchmarks.measure import OURS
from benchmarks.model import NAME
from tests.conftest import make_rows, write_parquet
from tests.serving.conftest import made_release


@pytest.mark.parametrize("what", [OURS, IN_PROCESS])
def test_rows_are_classified(what: str, model: Path, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "rows.parquet", make_rows(20))
    assert batch.rows_per_second(what, made_release(model, "int8", NAME), str(data)) > 0
