"""Whether a served model says what the offline model said: used where it is archived, and where it is deployed.

Hermetic helpers, inlined into the steps as `additional_funcs`.
"""


def spread_rows(path: str, count: int) -> dict[str, list[str]]:
    """Reads predictions, or a number of them that are spread evenly.

    Args:
        path: Parquet with the columns text, label and predicted.
        count: How many rows; 0 for all.

    Returns:
        The three columns.

    Raises:
        ValueError: There are no rows.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["text", "label", "predicted"])
    if table.num_rows == 0:
        raise ValueError("there are no predictions to hold the served model against")
    rows = min(count or table.num_rows, table.num_rows)
    columns: dict[str, list[str]] = table.take([at * table.num_rows // rows for at in range(rows)]).to_pydict()
    return columns


def compare_answers(served: list[str], offline: list[str], truth: list[str]) -> dict[str, float]:
    """Returns the `agreement` of served and offline labels, and the `accuracy` and `offline_accuracy`, from 0 to 1."""
    rows = len(truth)
    return {
        "rows": rows,
        "agreement": sum(one == other for one, other in zip(served, offline, strict=True)) / rows,
        "accuracy": sum(one == other for one, other in zip(served, truth, strict=True)) / rows,
        "offline_accuracy": sum(one == other for one, other in zip(offline, truth, strict=True)) / rows,
    }


def require_agreement(compared: dict[str, float], min_agreement: float, max_accuracy_drop: float) -> None:
    """Makes sure that a served model is as good as the offline one.

    Args:
        compared: What `compare_answers` returned.
        min_agreement: The least share of rows with the same label.
        max_accuracy_drop: By how much the accuracy may be lower.

    Raises:
        ValueError: It is not.
    """
    if compared["agreement"] < min_agreement:
        raise ValueError(
            f"the served model gives the offline model's label on {compared['agreement']:.4f} of {compared['rows']} "
            f"rows; min_agreement is {min_agreement}: try precision=fp32"
        )
    drop = compared["offline_accuracy"] - compared["accuracy"]
    # A drop of exactly the limit is allowed, and differences of decimal fractions are not exact.
    if drop > max_accuracy_drop + 1e-9:
        raise ValueError(
            f"the served model's accuracy is {compared['accuracy']:.4f}, {drop:.4f} below the offline model's; "
            f"max_accuracy_drop is {max_accuracy_drop}: try precision=fp32"
        )
