"""Kubeflow Pipelines over real HTTP, with what the client needs of it: sign-in, the v2beta1 API, what goes wrong.

with kubeflow("dex", users={"ann@example.com": "secret"}, namespaces={"ann@example.com": "team"}) as k:
    main(["--submit", "--host", k.url, ...])
    assert k.api.runs

Answers are those of KFP 2.17.0 and of what kubeflow/manifests puts in front of it, by their source. Time passes with
each record that is made, and for a run when it is read by its id.
"""

from tests.fakes.kfp.argo import Fate
from tests.fakes.kfp.server import Kubeflow, SignIn, kubeflow

__all__ = ["Fate", "Kubeflow", "SignIn", "kubeflow"]
