"""The order of rows in training, and those whose texts are kept; neither takes much memory."""

import math
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_pipeline.labels import count_labels
from nlp_pipeline.steps.train_model.rows import hold_out, training_order
from nlp_pipeline.steps.training_data import record_training_data
from tests.conftest import make_rows_of_several, write_parquet


def test_batches_are_mixed_by_the_seed() -> None:
    lengths = numpy.array([[20, 128][row % 2] for row in range(1600)])
    first, again, other = (training_order(lengths, 1.0, 16, seed).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert all({lengths[row] for row in first[at : at + 16]} == {20, 128} for at in range(0, 1600, 16))


@given(
    rows=st.integers(1, 400),
    longest=st.sampled_from([3, 20, 500]),
    epochs=st.integers(1, 4) | st.floats(0.01, 4),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_order(rows: int, longest: int, epochs: float, batch_size: int, seed: int) -> None:
    lengths = numpy.random.default_rng(rows).integers(2, longest, rows)
    order = training_order(lengths, epochs, batch_size, seed)
    assert len(order) == max(1, round(rows * epochs))
    for start in range(0, len(order), batch_size):
        # So far each row has come as often as any other, or once more.
        times = Counter(order[:start].tolist())
        assert {times[row] for row in range(rows)} <= {start // rows, math.ceil(start / rows)}
        batch = [lengths[row] for row in order[start : start + batch_size]]
        assert batch == sorted(batch)


def test_memory_hardly_grows_with_the_rows(encoder: Path, tmp_path: Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    peaks = []
    for count in (8_000, 24_000):
        rows = make_rows_of_several(count)
        counts, path = count_labels(labels for _, labels in rows), write_parquet(tmp_path / str(count), rows)
        del rows
        tracemalloc.start()
        assert len(training_order(numpy.ones(count, numpy.int32), 2.0, 32, seed=1)) == 2 * count
        assert len(hold_out(path, counts)["number"]) <= 5000
        record_training_data(path, tmp_path, tokenizer)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 16_000 < 64  # bytes a row, of which a text alone takes more
