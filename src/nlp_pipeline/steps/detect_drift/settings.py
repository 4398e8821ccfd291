"""What `detect_drift` can be told."""

from dataclasses import dataclass

from nlp_pipeline.parameters import REQUIRED, Settings, matches, parameter
from nlp_pipeline.steps.load_data.settings import DATA


@dataclass(frozen=True, kw_only=True)
class DriftSettings(Settings):
    """Which texts are compared with what, when they count as moved, and what is done then."""

    data: str = parameter(
        REQUIRED,
        "Texts to compare with those that a release was trained on, with or without labels: as train_data.",
        DATA,
    )
    threshold: float = parameter(
        0.25,
        "Population stability index above which data has moved; below 0.1 it is commonly called stable.",
        (lambda value: 0 < value < float("inf"), "above 0, such as 0.25"),
    )
    release: str = parameter(
        "live",
        "Release to compare with, on the volume: live (what serves), release (validated last), or a digest.",
        matches("live|release|[0-9a-f]{16}", "live, release, or a release's digest of 16 digits"),
    )
    retrain: str = parameter(
        "",
        "Schedule to start a run of where the data has moved, with its parameters; it may be paused. Empty for none.",
    )
