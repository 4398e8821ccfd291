"""What `archive_model` can be told."""

from dataclasses import dataclass

from nlp_pipeline.parameters import SHARE, Settings, one_of, parameter


@dataclass(frozen=True, kw_only=True)
class ArchiveSettings(Settings):
    """How the archive's number format is chosen."""

    precision: str = parameter(
        "auto",
        "Weights in int8, fp32, or auto for the fastest that is good enough.",
        one_of("auto", "int8", "fp32"),
    )
    max_quantisation_drop: float = parameter(0.005, "By how much int8 may lower the accuracy, as a fraction.", SHARE)
