"""Kubeflows with a user, and connections to them."""

import contextlib
from collections.abc import Iterator
from typing import Any

from nlp_pipeline.client.connection import Connection
from nlp_pipeline.settings import Settings
from tests.kubeflow.emulator import Kubeflow, SignIn, kubeflow

ANN, PASSWORD, TOKEN = "ann@example.com", "pass ${HOME} wörd & S3CRET", "token.S3CRET"
BY_PASSWORD = {"username": ANN, "password": PASSWORD}


@contextlib.contextmanager
def team(kind: SignIn = "dex", **options: Any) -> Iterator[Kubeflow]:
    """Starts a Kubeflow in which Ann has the namespace "team", by password or by token."""
    given = {"users": {ANN: PASSWORD}, "namespaces": {ANN: "team"}, "tokens": {TOKEN: "team"}, **options}
    with kubeflow(kind, **given) as k:
        yield k
        assert not k.refused


def settings_of(k: Kubeflow, **given: Any) -> Settings:
    """Returns settings for a Kubeflow: by password and in her namespace, unless told otherwise."""
    return Settings.model_validate({"host": k.url, "namespace": "team", **(given or BY_PASSWORD)})


def connected(k: Kubeflow, **given: Any) -> Connection:
    """Connects to a Kubeflow."""
    return Connection(settings_of(k, **given))


def passwords_sent(k: Kubeflow) -> int:
    """Returns how often a password was sent."""
    return sum(visit.startswith("POST /dex/auth/") for visit in k.visits)


def list_experiments(connection: Connection) -> list[Any]:
    """Lists the experiments, as something to be signed in for."""
    method = connection.experiments.experiment_service_list_experiments
    return list(connection.every("listing experiments", method, "experiments", namespace=connection.namespace))
