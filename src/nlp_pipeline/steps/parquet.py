"""Rows as `load_data` hands them on: a Parquet file or, where they are many, a folder of such files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet


def list_parts(rows: str | Path) -> list[str]:
    """Returns the files that rows lie in, in their order."""
    return sorted(map(str, Path(rows).glob("*.parquet"))) or [str(rows)]


def read_batches(rows: str | Path, *columns: str) -> Iterator[dict[str, list[Any]]]:
    """Yields rows, a few thousand at a time, as lists of the columns that are named, or of all."""
    for part in list_parts(rows):
        for batch in pyarrow.parquet.ParquetFile(part).iter_batches(4096, columns=columns or None):
            yield batch.to_pydict()


class Texts:
    """The texts of rows, which are read anew each time that one goes through them."""

    def __init__(self, rows: str | Path) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[str]:
        """Yields one after the other."""
        for batch in read_batches(self.rows, "text"):
            yield from batch["text"]
