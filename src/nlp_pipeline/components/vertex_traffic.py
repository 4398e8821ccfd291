"""How an endpoint's traffic is split among the versions that are deployed to it.

A split maps a deployed model's id to its percent. Vertex AI wants whole numbers whose sum is 100; "0" stands for the
model that is being deployed. Hermetic helpers, inlined into the steps as `additional_funcs`.
"""


def scaled_split(split: dict[str, int], total: int) -> dict[str, int]:
    """Returns a split with the same proportions whose sum is another one; those without a share are left out.

    Args:
        split: Shares by ids.
        total: The sum to reach.
    """
    whole = sum(split.values())
    if not whole or not total:
        return {}
    exact = {one: share * total / whole for one, share in split.items()}
    shares = {one: int(share) for one, share in exact.items()}
    # What rounding down has left goes to those that it took most from; of several, to the smallest.
    by_loss = sorted(exact, key=lambda one: (shares[one] - exact[one], exact[one], one))
    for one in by_loss[: total - sum(shares.values())]:
        shares[one] += 1
    return {one: share for one, share in shares.items() if share}


def split_with_new(former: dict[str, int], canary_percent: int) -> dict[str, int]:
    """Returns the split with which a new version is deployed: all where nothing serves, else its first share.

    Args:
        former: The split of what serves now; empty where nothing does.
        canary_percent: The new version's share.
    """
    others = scaled_split(former, 100 - canary_percent)
    return {"0": 100 - sum(others.values()), **others}


def former_split(former: dict[str, int], left: list[str]) -> dict[str, int]:
    """Returns the split to go back to.

    Args:
        former: The split before the new version came.
        left: The ids of those that are deployed still.
    """
    return scaled_split({one: share for one, share in former.items() if one in left}, 100)
