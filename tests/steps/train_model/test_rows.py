"""The order of rows in training."""

import itertools
import math
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_pipeline.steps.train_model.rows import training_order


def test_batches_are_of_like_length_and_in_no_order_but_the_seeds() -> None:
    lengths = [[20, 128][row % 2] for row in range(1603)]
    order = training_order(lengths, 1.0, 16, seed=1)
    batches = [[lengths[row] for row in order[at : at + 16]] for at in range(0, 1603, 16)]
    assert sum(max(batch) * len(batch) for batch in batches) < 1.05 * sum(lengths)
    assert len(batches[-1]) == 3
    for some in (batches[:10], batches[50:60]):
        assert {batch[0] for batch in some} == {20, 128}
    random.seed(2)
    state = random.getstate()
    assert training_order(lengths, 1.0, 16, seed=1) == order != training_order(lengths, 1.0, 16, seed=2)
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
    lengths = [random.Random(row).randint(2, longest) for row in range(rows)]
    order = training_order(lengths, epochs, batch_size, seed)
    assert len(order) == max(1, round(rows * epochs))
    pool = batch_size * max(1, min(50, rows // batch_size))
    if rows % pool == 0:  # pools do not go across epochs, and so hold no row twice
        assert all(len(set(order[at : at + pool])) == len(order[at : at + pool]) for at in range(0, len(order), pool))
    for end in {*range(pool, len(order), pool), len(order)}:
        # So far each row has come as often as any other, or once more.
        times = Counter(order[:end])
        assert {times[row] for row in range(rows)} <= {end // rows, math.ceil(end / rows)}
    for start in range(0, len(order), pool):
        here = order[start : start + pool]
        batches = [[lengths[row] for row in here[at : at + batch_size]] for at in range(0, len(here), batch_size)]
        batches.sort(key=lambda batch: (min(batch), max(batch)))
        assert all(max(batch) <= min(longer) for batch, longer in itertools.pairwise(batches))
