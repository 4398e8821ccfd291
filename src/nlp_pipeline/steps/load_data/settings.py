"""What `load_data` can be told."""

import contextlib
import json
from dataclasses import dataclass

from nlp_pipeline.errors import UsageError
from nlp_pipeline.parameters import REQUIRED, SHARE, Range, Settings, one_of, parameter

DATA: Range = (lambda value: value.strip() != "", "the path or URL of a CSV, TSV, JSONL or Parquet file")
NOT_EMPTY: Range = (lambda value: value != "", "the name of a column")


@dataclass(frozen=True, kw_only=True)
class LoadSettings(Settings):
    """Where labelled text lies, and how it is read and split."""

    train_data: str = parameter(
        REQUIRED,
        "Rows to train on: path or URL (http, s3, gs, hf) of CSV, TSV, JSONL or Parquet; a folder; a pattern; a list.",
        DATA,
    )
    evaluation_data: str = parameter(
        "", "The same for rows to evaluate on; empty to split a share off the training data."
    )
    text_column: str = parameter("text", "Name of the text's column.", NOT_EMPTY)
    label_column: str = parameter("label", "Name of the label's column.", NOT_EMPTY)
    label_separator: str = parameter(
        "", "What stands between a text's labels, as in 'a|b'; empty for one label a text."
    )
    evaluation_share: float = parameter(
        0.2,
        "Share of each class to split off for evaluation.",
        (lambda value: 0 < value < 1, "a share between 0 and 1, such as 0.2"),
    )
    max_bad_share: float = parameter(0.01, "Share of rows that may lack a text or a label.", SHARE)
    doubtful_values: str = parameter(
        "keep",
        "Labels that look alike, and values that stand for a missing one: keep, merge (and drop), or refuse.",
        one_of("keep", "merge", "refuse"),
    )
    seed: int = parameter(
        42,
        "Seed of the split, the new head, the order of rows and dropout.",
        (lambda value: 0 <= value < 2**32, "from 0 to 4294967295"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_column == self.label_column:
            raise UsageError(
                f"text_column and label_column are both {self.text_column!r}: each needs a column of its own"
            )


def split_addresses(data: str) -> list[str]:
    """Returns the addresses of a JSON list of them, or the only one."""
    with contextlib.suppress(ValueError):  # of a path that begins with a bracket
        if data.lstrip().startswith("["):
            return [str(address) for address in json.loads(data)]
    return [data.strip()]
