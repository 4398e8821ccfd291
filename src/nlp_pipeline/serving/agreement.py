"""Whether a served model says what the offline model said: asked where it is archived, and where it is deployed."""

import math
import operator
from dataclasses import dataclass
from pathlib import Path

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.parameters import SHARE, Settings, parameter

# What an archive answered where it was validated, in its run's folder on the volume: rows as the predictions have them.
SERVED = "served.parquet"


@dataclass(frozen=True, kw_only=True)
class AgreementLimits(Settings):
    """How far a served model may differ from the offline one."""

    min_agreement: float = parameter(0.97, "Least share of rows on which served and offline model agree.", SHARE)
    max_accuracy_drop: float = parameter(
        0.01, "By how much the served model's accuracy may be lower, as a fraction.", SHARE
    )


def spread_rows(path: str | Path, count: int) -> dict[str, list[str]]:
    """Reads so many rows, spread evenly, or all for 0, of Parquet with the columns text, label and predicted."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["text", "label", "predicted"])
    if table.num_rows == 0:
        raise PipelineError(f"{path} has no rows")
    rows = min(count or table.num_rows, table.num_rows)
    columns: dict[str, list[str]] = table.take([at * table.num_rows // rows for at in range(rows)]).to_pydict()
    return columns


def compare_answers(served: list[str], offline: list[str], truth: list[str]) -> dict[str, float]:
    """Returns the `agreement` of served and offline labels, and the `accuracy` and `offline_accuracy`, from 0 to 1."""
    pairs = {"agreement": (served, offline), "accuracy": (served, truth), "offline_accuracy": (offline, truth)}
    return {"rows": len(truth)} | {name: sum(map(operator.eq, *pair)) / len(truth) for name, pair in pairs.items()}


def require_agreement(compared: dict[str, float], limits: AgreementLimits) -> None:
    """Raises a PipelineError where, by what `compare_answers` returned, a served model is worse than it may be."""
    if compared["agreement"] < limits.min_agreement:
        raise PipelineError(
            f"the served model gives the offline one's label on {compared['agreement']:.4f} of {compared['rows']} "
            f"rows; min_agreement is {limits.min_agreement}: try precision=fp32"
        )
    drop = compared["offline_accuracy"] - compared["accuracy"]
    # A drop of exactly the limit is allowed, and differences of decimal fractions are not exact.
    if drop > limits.max_accuracy_drop + 1e-9:
        raise PipelineError(
            f"the served model's accuracy is {compared['accuracy']:.4f}, {drop:.4f} below the offline one's; "
            f"max_accuracy_drop is {limits.max_accuracy_drop}: try precision=fp32"
        )


def require_sameness(compared: dict[str, float], limits: AgreementLimits) -> None:
    """Raises a PipelineError where a deployed model answers otherwise than it did before, and not by chance.

    It is asked for few rows: as many may differ as `min_agreement` allows and three standard deviations more, and one
    in any case.
    """
    rows, share = compared["rows"], 1 - limits.min_agreement
    allowed = max(1, math.floor(rows * share + 3 * math.sqrt(rows * share * (1 - share))))
    differing = round(rows * (1 - compared["agreement"]))
    if differing > allowed:
        raise PipelineError(
            f"{differing} of {rows} answers differ from those before it was deployed; by min_agreement="
            f"{limits.min_agreement} and chance {allowed} may"
        )
