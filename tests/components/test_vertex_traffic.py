from hypothesis import given
from hypothesis import strategies as st

from nlp_pipeline.components.vertex_traffic import former_split, scaled_split, split_with_new

SPLITS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 100)).map(lambda split: scaled_split(split, 100))


@given(former=SPLITS, percent=st.integers(1, 100))
def test_a_split_with_a_new_version_adds_up_and_keeps_the_former_proportions(
    former: dict[str, int], percent: int
) -> None:
    split = split_with_new(former, percent)
    assert sum(split.values()) == 100 and min(split.values()) > 0
    assert split["0"] == (percent if former else 100)
    assert set(split) - {"0"} <= set(former)
    for one, share in former.items():
        assert abs(split.get(one, 0) - share * (100 - percent) / 100) < 1


@given(former=SPLITS, left=st.lists(st.sampled_from("abcdefgh")))
def test_the_split_to_go_back_to_names_only_what_is_there(former: dict[str, int], left: list[str]) -> None:
    split = former_split(former, left)
    assert set(split) <= set(former) & set(left)
    assert sum(split.values()) == (100 if set(former) & set(left) else 0)
    if set(former) <= set(left):
        assert split == former
