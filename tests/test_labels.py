import random

import pytest

from nlp_pipeline.labels import label_order


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "-1", "0"], ["-1", "0", "9", "10"]),
        (["b", "a", "B"], ["B", "a", "b"]),
        (["01", "2", "10"], ["01", "10", "2"]),  # "01" is a name: as an integer it would be "1"
        (["٣", "1"], ["1", "٣"]),
        (["9" * 5000, "1"], ["1", "9" * 5000]),  # Python reads no integer of so many digits
        ([], []),
    ],
)
def test_order(labels: list[str], order: list[str]) -> None:
    assert label_order(labels) == order


def test_order_does_not_depend_on_the_order_given() -> None:
    labels = [str(number) for number in range(-5, 20)]
    for seed in range(5):
        random.Random(seed).shuffle(labels)
        assert label_order(labels) == [str(number) for number in range(-5, 20)]
