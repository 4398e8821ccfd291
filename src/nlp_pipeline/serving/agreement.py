"""Whether a served model says what the offline model said: asked where it is archived, and where it is deployed."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.labels import labels_of
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


def spread_rows(path: str | Path, count: int) -> dict[str, list[Any]]:
    """Reads so many rows, spread evenly, or all for 0, of Parquet with the columns text, label and predicted."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["text", "label", "predicted"])
    if table.num_rows == 0:
        raise PipelineError(f"{path} has no rows")
    rows = min(count or table.num_rows, table.num_rows)
    columns: dict[str, list[Any]] = table.take([at * table.num_rows // rows for at in range(rows)]).to_pydict()
    return columns


def label_of(answer: dict[str, Any]) -> Any:
    """Returns the label of an answer or, of several, their sorted list, as rows have them."""
    return answer["label"] if "label" in answer else sorted(item["label"] for item in answer["labels"])


def agreement_of(answers: list[Any], others: list[Any]) -> float:
    """Returns the share of answers that are the same; of several labels a text, the mean share of those in common.

    That is the Jaccard index: of many labels, few answers would be the same altogether in another number format.
    """
    pairs = [({*labels_of(first)}, {*labels_of(second)}) for first, second in zip(answers, others, strict=True)]
    shares = [len(first & second) / len(first | second) if first | second else 1 for first, second in pairs]
    return sum(shares) / len(shares)


def compare_answers(served: list[Any], offline: list[Any], truth: list[Any]) -> dict[str, float]:
    """Returns the `agreement` of served and offline labels, and the `accuracy` and `offline_accuracy`, from 0 to 1.

    And how many rows only the offline model (`lost`), and only the served one (`won`), is right on. Several labels of a
    text are right where all of them are.
    """
    rights = [(first == label, second == label) for first, second, label in zip(served, offline, truth, strict=True)]
    accuracy, offline_accuracy = (sum(column) / len(truth) for column in zip(*rights, strict=True))
    return {
        "rows": len(truth),
        "agreement": agreement_of(served, offline),
        "accuracy": accuracy,
        "offline_accuracy": offline_accuracy,
        "lost": rights.count((False, True)),
        "won": rights.count((True, False)),
    }


def share_interval(share: float, rows: float, deviations: float = 1.96) -> tuple[float, float]:
    """Returns the interval in which a share that was measured on so many rows truly lies; by default with 95 %.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    extra = deviations**2 / rows
    middle, half = share + extra / 2, math.sqrt(extra * (share * (1 - share) + extra / 4))
    return max(0.0, (middle - half) / (1 + extra)), 1.0 if share == 1 else (middle + half) / (1 + extra)


def drop_interval(lost: float, won: float, rows: float, deviations: float = 1.96) -> tuple[float, float]:
    """Returns the interval in which the accuracy that serving costs truly lies, by rows that both answered.

    Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions".
    """
    rows += 2
    drop = (lost - won) / rows
    half = deviations * math.sqrt(lost + won + 1 - rows * drop**2) / rows
    return drop - half, drop + half


def require_agreement(compared: dict[str, float], limits: AgreementLimits) -> None:
    """Raises a PipelineError where, by what `compare_answers` returned, a served model is worse than it may be.

    Chance is no reason: a limit is passed where it lies outside of an interval of three standard deviations.
    """
    require_sameness(compared, limits, "the offline model's", ": try precision=fp32")
    lost, won = compared["lost"], compared["won"]
    if drop_interval(lost, won, compared["rows"], 3)[0] > limits.max_accuracy_drop:
        raise PipelineError(
            f"the served model's accuracy is {compared['accuracy']:.4f}, {(lost - won) / compared['rows']:.4f} below "
            f"the offline one's, and not by chance; max_accuracy_drop is {limits.max_accuracy_drop}: try precision=fp32"
        )


def require_sameness(
    compared: dict[str, float], limits: AgreementLimits, others: str = "those before it was deployed", advice: str = ""
) -> None:
    """Raises a PipelineError where a model answers otherwise than it did elsewhere, and not by chance.

    As many may differ as `min_agreement` allows and three standard deviations more, and one in any case.
    """
    rows, share = compared["rows"], 1 - limits.min_agreement
    allowed = max(1, math.floor(rows * share + 3 * math.sqrt(rows * share * (1 - share))))
    differing = round(rows * (1 - compared["agreement"]))
    if differing > allowed:
        raise PipelineError(
            f"{differing} of {rows} answers differ from {others}; by min_agreement={limits.min_agreement} and chance "
            f"{allowed} may{advice}"
        )
