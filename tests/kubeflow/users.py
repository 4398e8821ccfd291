"""Ann, who has a namespace and a password, and her connections."""

import contextlib
from collections.abc import Iterator
from typing import Any

from nlp_pipeline.kubeflow.connection import Connection
from nlp_pipeline.settings import Settings
from tests.fakes.kfp import Kubeflow, SignIn, kubeflow

ANN, PASSWORD, TOKEN = "ann@example.com", "pass ${HOME} wörd & S3CRET", "token.S3CRET"
BY_PASSWORD = {"username": ANN, "password": PASSWORD}
VALUES = {"train_data": "s3://bucket/reviews.csv"}
BATCH = {"data": "s3://bucket/new.csv", "to": "s3://bucket/scored"}
TRAIN = ("--set", "train_data=s3://bucket/reviews.csv")


@contextlib.contextmanager
def team(kind: SignIn = "dex", **options: Any) -> Iterator[Kubeflow]:
    """Starts a Kubeflow in which Ann has the namespace "team", by password or by token."""
    settings_given = {"users": {ANN: PASSWORD}, "namespaces": {ANN: "team"}, "tokens": {TOKEN: "team"}, **options}
    with kubeflow(kind, **settings_given) as k:
        yield k


def settings_of(k: Kubeflow, **options: Any) -> Settings:
    """Returns settings for a Kubeflow: by password, and in Ann's namespace where there are several users."""
    several = bool(k.api.health["multi_user"])
    signed_in = options or (BY_PASSWORD if several else {})
    return Settings.model_validate({"host": k.url, "namespace": "team" if several else "", **signed_in})


def connected(k: Kubeflow, **options: Any) -> Connection:
    return Connection(settings_of(k, **options))


def list_experiments(connection: Connection) -> list[Any]:
    """Lists the experiments, as something to be signed in for."""
    return list(connection.list_all("experiments", namespace=connection.namespace))


def node(name: str, taints: list[dict[str, str]] | None = None, **more: str) -> dict[str, Any]:
    """Returns a node of two CPUs; keywords change what it has to give."""
    allocatable = {"cpu": "2", "memory": "7900Mi", **{key.replace("_", "/"): value for key, value in more.items()}}
    metadata = {"name": name, "labels": {"pool": name}}
    return {"kind": "Node", "metadata": metadata, "spec": {"taints": taints}, "status": {"allocatable": allocatable}}
