import pytest

from benchmarks.measure import FEWEST, NOISE, Figure, alternate, met, ratio, record


def figure(ours: list[float], theirs: list[float], *, higher: bool = True, target: float = 4.0) -> Figure:
    return Figure("speed", "rows/s", {"ours": ours, "theirs": theirs}, higher, {"theirs": target})


def test_samples_are_taken_in_turn() -> None:
    order: list[str] = []
    samples = alternate(3, {"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert samples == {"a": [None] * 3, "b": [None] * 3}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        # The machine is twice as fast in the second round, for both: each round's own ratio does not tell.
        (figure([400.0, 840.0, 410.0], [100.0, 200.0, 100.0]), {"median": 4.1, "low": 4.0, "high": 4.2}),
        (figure([10.0, 10.0, 10.0], [40.0, 50.0, 45.0], higher=False), {"median": 4.5, "low": 4.0, "high": 5.0}),
        (
            figure([100.0, 100.0, 100.0 * NOISE * 1.01], [100.0, 100.0, 100.0]),
            {"refused": "too noisy: the rounds' ratios lie between 1.00 and 1.31"},
        ),
        (figure([4.0, 4.0], [1.0, 1.0]), {"refused": f"too few rounds to tell: 2, of at least {FEWEST}"}),
        (  # counts need no rounds
            Figure("archive", "MB", {"ours": [20.0], "theirs": [80.0]}, False, exact=True),
            {"median": 4.0, "low": 4.0, "high": 4.0},
        ),
    ],
)
def test_a_ratio_is_the_median_of_each_rounds_own_or_refused(found: Figure, told: dict[str, object]) -> None:
    assert ratio(found, "theirs") == record(found)["ratios"]["theirs"] == told
    if found.targets and "refused" in told:
        assert met(found) is None


def test_a_target_is_met_or_missed() -> None:
    assert met(figure([4.0, 4.0, 4.1], [1.0, 1.0, 1.0])) is True
    assert met(figure([3.9, 3.9, 4.1], [1.0, 1.0, 1.0])) is False
    assert met(Figure("accuracy", "", {"ours": [0.9]}, limit=0.9)) is True
    assert met(Figure("loss", "", {"ours": [0.4]}, higher_is_better=False, limit=0.3)) is False
    assert met(Figure("size", "MB", {"ours": [0.4]})) is None


def test_a_record_holds_all_that_was_found() -> None:
    kept = record(figure([40.0, 42.0, 44.0], [10.0, 10.0, 10.0]))
    assert kept["samples"] == {"ours": [40.0, 42.0, 44.0], "theirs": [10.0, 10.0, 10.0]}
    assert kept["medians"] == {"ours": 42.0, "theirs": 10.0}
    assert kept["spreads"]["ours"] == pytest.approx(4 / 42)
    assert kept["ratios"] == {"theirs": {"median": 4.2, "low": 4.0, "high": 4.4}}
    assert kept["met"] is True


@pytest.mark.parametrize(
    ("samples", "targets"),
    [({"theirs": [1.0]}, {}), ({"ours": []}, {}), ({"ours": [float("nan")]}, {}), ({"ours": [1.0]}, {"theirs": 2.0})],
)
def test_a_senseless_figure_is_refused(samples: dict[str, list[float]], targets: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"'speed' has no samples of '(ours|theirs)', or some that are no numbers"):
        Figure("speed", "rows/s", samples, targets=targets)


def test_samples_that_are_no_pairs_have_no_ratio() -> None:
    assert record(Figure("a", "", {"ours": [1.0], "theirs": [1.0, 1.0]}))["ratios"] == {}
    assert record(Figure("a", "", {"ours": [0.0], "theirs": [1.0]}))["ratios"] == {}
