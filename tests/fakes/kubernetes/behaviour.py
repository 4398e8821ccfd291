"""How an emulated cluster is to behave: what becomes of releases, how slow and how willing it is."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Fate:
    """What becomes of each new set of pods of a release.

    Attributes:
        ready_after: Ticks from its start until it is ready, or fails to load.
        failure: ModelLoadFailed: the container crashes. InvalidSpec: the controller makes no pods of the object.
            never ready: the pods run, and don't get ready.
        message: The server's or the controller's reason of the failure.
        backend: Address of the real server that answers for it; without one the gateway answers 503.
        unready_answers: How many requests the gateway refuses though the pods are ready.
        unready_status: With which status: 503 or 404.
    """

    ready_after: int = 2
    failure: Literal["ModelLoadFailed", "InvalidSpec", "never ready"] | None = None
    message: str = "the model could not be loaded"
    backend: str | None = None
    unready_answers: int = 0
    unready_status: int = 503


@dataclass
class Behaviour:
    """What tests may change at any time.

    Attributes:
        fates: What becomes of pods, by the value of their label `nlp-pipeline/release`; "" where they have none.
            Looked up when pods start.
        default_fate: What becomes of pods that `fates` does not name.
        lag: For how many ticks the controller does not notice a change, so that the status stays the former one.
        conflicts: How many of the next PUTs answer 409 though the resourceVersion is right.
        failures: How many of the next requests to the API server fail.
        failure_status: With which status: 429, 500, 503.
        denied: What the account may not do: verbs and plurals of resources.
        reviews_forbidden: Whether the account may not even ask who it is and what it may do.
        kserve_installed: Whether the cluster knows `serving.kserve.io`.
    """

    fates: dict[str, Fate] = field(default_factory=dict)
    default_fate: Fate = field(default_factory=Fate)
    lag: int = 1
    conflicts: int = 0
    failures: int = 0
    failure_status: int = 503
    denied: set[tuple[str, str]] = field(default_factory=set)
    reviews_forbidden: bool = False
    kserve_installed: bool = True

    def deny(self, verb: str, plural: str) -> None:
        """Takes a permission away from the account that asks, as in `deny("create", "inferenceservices")`."""
        self.denied.add((verb, plural))

    def without_kserve(self) -> None:
        """Makes it a cluster in which KServe is not installed."""
        self.kserve_installed = False
