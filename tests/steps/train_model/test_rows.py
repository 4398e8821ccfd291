"""The order of rows in training, and those whose texts are kept."""

import math
import random
from collections import Counter

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_pipeline.steps.train_model.rows import training_order


def test_batches_are_mixed_and_each_is_sorted_by_length() -> None:
    lengths = numpy.array([[20, 128][row % 2] for row in range(1603)])
    order = training_order(lengths, 1.0, 16, seed=1).tolist()
    batches = [[lengths[row] for row in order[at : at + 16]] for at in range(0, 1603, 16)]
    assert batches == [sorted(batch) for batch in batches] and len(batches[-1]) == 3
    assert all(set(batch) == {20, 128} for batch in batches[:-1])
    random.seed(2)
    state = random.getstate()
    others = [training_order(lengths, 1.0, 16, seed).tolist() for seed in (1, 2)]
    assert others[0] == order != others[1]
    assert random.getstate() == state


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
