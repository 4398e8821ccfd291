import pytest

from benchmarks.measure import FEWEST, NOISE, Figure, alternate, met, ratio, record, spread


def figure(ours: list[float], theirs: list[float], *, higher: bool = True, target: float = 4.0) -> Figure:
    return Figure("speed", "rows/s", {"ours": ours, "theirs": theirs}, higher, {"theirs": target})


def test_samples_are_taken_in_turn() -> None:
    order: list[str] = []
    samples = alternate(3, {"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert samples == {"a": [None] * 3, "b": [None] * 3}


def test_a_ratio_is_the_median_of_each_rounds_own() -> None:
    # The machine is twice as fast in the second round, for both: the medians' ratio would say the same, not the spread.
    found = ratio(figure([400.0, 840.0, 410.0], [100.0, 200.0, 100.0]), "theirs")
    assert (found.median, found.low, found.high, found.refused) == (4.1, 4.0, 4.2, "")


def test_where_less_is_better_the_ratio_turns_round() -> None:
    found = ratio(figure([10.0, 10.0, 10.0], [40.0, 50.0, 45.0], higher=False), "theirs")
    assert (found.median, found.low, found.high) == (4.5, 4.0, 5.0)


def test_a_noisy_machine_gets_no_ratio() -> None:
    noisy = figure([100.0, 100.0, 100.0 * NOISE * 1.01], [100.0, 100.0, 100.0])
    assert ratio(noisy, "theirs").refused == "too noisy: the rounds' ratios lie between 1.00 and 1.31"
    assert record(noisy)["ratios"]["theirs"] == {"refused": ratio(noisy, "theirs").refused}
    assert met(noisy) is None
    quiet = figure([100.0, 100.0, 100.0 * NOISE * 0.99], [100.0, 100.0, 100.0])
    assert not ratio(quiet, "theirs").refused


def test_noise_is_judged_by_the_pairs_not_by_the_samples() -> None:
    # A slow first round of both is no noise; the same samples out of step are.
    assert not ratio(figure([50.0, 100.0, 100.0], [25.0, 50.0, 50.0]), "theirs").refused
    assert ratio(figure([50.0, 100.0, 100.0], [50.0, 50.0, 25.0]), "theirs").refused


def test_too_few_rounds_get_no_ratio() -> None:
    assert FEWEST == 3
    assert "too few rounds" in ratio(figure([4.0, 4.0], [1.0, 1.0]), "theirs").refused
    assert met(figure([4.0, 4.0], [1.0, 1.0])) is None


def test_counts_need_no_rounds() -> None:
    size = Figure("archive", "MB", {"ours": [20.0], "theirs": [80.0]}, False, {"theirs": 4.0}, exact=True)
    assert (ratio(size, "theirs").median, ratio(size, "theirs").refused, met(size)) == (4.0, "", True)


def test_a_target_is_met_or_missed() -> None:
    assert met(figure([4.0, 4.0, 4.1], [1.0, 1.0, 1.0])) is True
    assert met(figure([3.9, 3.9, 4.1], [1.0, 1.0, 1.0])) is False
    assert met(Figure("accuracy", "", {"ours": [0.9]}, limit=0.9)) is True
    assert met(Figure("loss", "", {"ours": [0.4]}, higher_is_better=False, limit=0.3)) is False
    assert met(Figure("size", "MB", {"ours": [0.4]})) is None


def test_a_missed_limit_stays_missed_beside_a_refused_ratio() -> None:
    noisy = Figure("speed", "", {"ours": [1.0, 9.0, 5.0], "theirs": [1.0, 1.0, 1.0]}, targets={"theirs": 2}, limit=6)
    assert met(noisy) is False


def test_a_record_holds_all_that_was_found() -> None:
    kept = record(figure([40.0, 42.0, 44.0], [10.0, 10.0, 10.0]))
    assert kept["samples"] == {"ours": [40.0, 42.0, 44.0], "theirs": [10.0, 10.0, 10.0]}
    assert kept["medians"] == {"ours": 42.0, "theirs": 10.0}
    assert kept["spreads"]["ours"] == pytest.approx(4 / 42)
    assert kept["ratios"] == {"theirs": {"median": 4.2, "low": 4.0, "high": 4.4}}
    assert kept["met"] is True


def test_spread_is_a_share_of_the_median() -> None:
    assert spread([90.0, 100.0, 110.0]) == pytest.approx(0.2)
    assert spread([0.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    ("samples", "targets", "wrong"),
    [
        ({"theirs": [1.0]}, {}, "no samples of 'ours'"),
        ({"ours": []}, {}, "no samples of 'ours'"),
        ({"ours": [float("nan")]}, {}, "no numbers"),
        ({"ours": [1.0]}, {"theirs": 2.0}, "no samples of it"),
    ],
)
def test_a_senseless_figure_is_refused(samples: dict[str, list[float]], targets: dict[str, float], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Figure("speed", "rows/s", samples, targets=targets)


def test_samples_that_are_no_pairs_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="3 samples of 'ours' and 2 of 'theirs'"):
        ratio(figure([1.0, 1.0, 1.0], [1.0, 1.0]), "theirs")
    with pytest.raises(ValueError, match="not positive"):
        ratio(figure([1.0, 0.0, 1.0], [1.0, 1.0, 1.0]), "theirs")
