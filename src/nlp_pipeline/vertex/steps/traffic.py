"""How an endpoint's traffic is split among the versions that are deployed to it."""


def scale_traffic(split: dict[str, int], total: int) -> dict[str, int]:
    """Returns a split with the same proportions whose sum is another one, in whole numbers as Vertex AI wants them.

    Args:
        split: Shares by deployed models' ids, none of them 0.
        total: The sum to reach.

    Returns:
        The shares; those that would get none are left out.
    """
    former = sum(split.values())
    exact = {id: share * total / former for id, share in split.items()}
    scaled = {id: int(share) for id, share in exact.items()}
    # What rounding down has left goes to those that it took most from; of several, to the smallest.
    by_loss = sorted(exact, key=lambda id: (scaled[id] - exact[id], exact[id], id))
    for id in by_loss[: total - sum(scaled.values())]:
        scaled[id] += 1
    return {id: share for id, share in scaled.items() if share}
