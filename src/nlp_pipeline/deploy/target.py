"""Where and how a release is deployed: the settings, and what is found out for them before anything is sent."""

from dataclasses import dataclass, field, replace

from nlp_pipeline.deploy import access, cluster
from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.errors import UsageError
from nlp_pipeline.serving.agreement import AgreementLimits
from nlp_pipeline.volume import Run


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where and how a release is deployed.

    Attributes:
        run: Who deploys it, and the model's name.
        namespace: Where it is served; empty before it is found out.
        runtime: The name of the ServingRuntime; empty before it is found out.
        labels: The model's labels in the order of their ids, for a server that answers with ids.
        headers: What signs requests to the endpoint in.
        poll_seconds: Between two looks at the cluster.
        route_seconds: Within these a ready service must answer.
    """

    settings: DeploySettings
    limits: AgreementLimits = field(default_factory=AgreementLimits)
    run: Run
    namespace: str = ""
    runtime: str = ""
    labels: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    poll_seconds: float = 2.0
    route_seconds: float = 120.0

    @property
    def name(self) -> str:
        """The name of the model, and of the InferenceService."""
        return self.run.model_name


def connect(target: Target) -> Target:
    """Connects to a cluster with KServe, and returns the target with the namespace to deploy in.

    Raises:
        UsageError: There is no cluster, KServe is not installed in it, or no namespace is named.
    """
    cluster.connect()
    namespace = target.settings.namespace or cluster.own_namespace()
    if not namespace:
        raise UsageError("namespace is empty, and the kubeconfig's context names none: set namespace")
    cluster.check_kserve()
    return replace(target, namespace=namespace)


def connect_and_check(target: Target) -> Target:
    """Connects to the cluster, makes sure that it can serve the model, and returns the target with what was found.

    Raises:
        UsageError: It can't; the message says what to do.
    """
    target = connect(target)
    access.check_access(target.namespace)
    try:
        cluster.check_place(target.settings, target.namespace)
        runtime, where = cluster.choose_runtime(target.settings, target.namespace)
    except cluster.ForbiddenError as error:
        raise access.refuse_access(target.namespace, str(error)) from None
    print(f"runtime {runtime}, {where}", flush=True)
    return replace(target, runtime=runtime)
