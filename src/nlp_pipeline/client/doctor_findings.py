"""What the doctor finds out, and what its checks hand on to each other."""

import re
from dataclasses import dataclass, field
from typing import Any

from nlp_pipeline.client.connection import Connection
from nlp_pipeline.platforms.doctor import Check
from nlp_pipeline.settings import Settings

# What the pipeline needs of Kubeflow Pipelines: names of claims and Secrets as parameters.
LEAST = (2, 5)
# From then on a Secret that a step would read need not exist.
OPTIONAL_SECRETS = (2, 15)
# Where Kubeflow Pipelines runs its pods where there is but one user.
ONE_USER = "kubeflow"


@dataclass
class Findings:
    """What the checks hand on to each other.

    Attributes:
        settings: The settings.
        values: The pipeline's arguments, all of them.
        checks: What was found out so far.
        connection: The connection to Kubeflow Pipelines; None where there is none.
        health: What the server tells of itself.
        skew: Seconds by which the server's clock is ahead of this machine's; None where it does not tell.
        cluster: A client of `kubernetes`; None where Kubernetes can't be asked.
        account: Whom Kubernetes knows the user as; empty where it does not tell.
    """

    settings: Settings
    values: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    connection: Connection | None = None
    health: dict[str, Any] = field(default_factory=dict)
    skew: float | None = None
    cluster: Any = None
    account: str = ""

    def add(self, name: str, ok: bool | None, detail: str, remedy: str = "", required: bool = True) -> None:
        """Notes what was found out."""
        self.checks.append(Check(name, ok, required, " ".join(detail.split()), remedy))

    @property
    def namespace(self) -> str:
        """The namespace that the run's pods are in."""
        several = self.connection is None or self.connection.multi_user
        return self.settings.namespace or ("" if several else ONE_USER)

    @property
    def told_version(self) -> str:
        """What the server, or its user interface, tells for its version."""
        return str(self.health.get("tag_name") or self.health.get("apiServerTagName") or "")

    @property
    def version(self) -> tuple[int, int] | None:
        """The server's version; None where it is not known."""
        match = re.match(r"v?(\d+)\.(\d+)", self.told_version)
        return (int(match[1]), int(match[2])) if match else None
