"""What deploying can be told: by the pipeline's parameters, and by `--set` for `--deploy` and the like."""

from dataclasses import dataclass, field
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.parameters import COUNT, POSITIVE, Range, Settings, matches, one_of, parameter
from nlp_pipeline.release import Release
from nlp_pipeline.serving.agreement import AgreementLimits
from nlp_pipeline.volume import Run

LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"  # a DNS-1123 label
DNS_NAME = r"(?!.{254})[a-z0-9]+((-+|\.)[a-z0-9]+)*"  # a DNS-1123 subdomain
CPU: Range = matches(r"[0-9]+(\.[0-9]+)?|[0-9]+m", "as in 4 or 500m")
MEMORY: Range = matches(r"[0-9]+([KMGT]i|[kMGT])", "as in 12Gi")
NAME_OR_EMPTY: Range = matches(f"|{DNS_NAME}", "a name in lower case, or empty")
LABELS: Range = (
    lambda value: all(isinstance(label, str) for label in value.values()),
    'labels with texts for values, as in {"pool": "gpu"}',
)
TOLERATIONS: Range = (
    lambda value: all(isinstance(item, dict) and "operator" in item for item in value),
    'a list such as [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]',
)
# What --manifests makes in a namespace.
ONNX_RUNTIME, RUNTIME, SERVING_ACCOUNT = "nlp-pipeline-onnx", "nlp-pipeline-torchserve", "nlp-pipeline-serving"


def check_host_name(name: str, namespace: str, is_knative: bool) -> None:
    """Raises UsageError where a name that KServe makes of a model's has no room; it would never get it ready.

    These are host names, and on Standard a label; the longest are those by which a new release is asked.
    """
    tagged, canary = f"latest-{name}-predictor", f"{name}-next-predictor"
    longest = tagged if is_knative else max(f"isvc.{canary}", f"{canary}-{namespace}", key=len)
    if len(longest) > 63:
        raise UsageError(
            f"model_name={name} is too long by {len(longest) - 63}: {longest}, which KServe makes of it, may have 63 "
            "characters"
        )


@dataclass(frozen=True, kw_only=True)
class DeploySettings(Settings):
    """Where and how a release is served by KServe."""

    namespace: str = parameter(
        "",
        "Namespace of the InferenceService; empty for the pod's own.",
        matches(f"|{LABEL}", "the name of a namespace, or empty"),
    )
    serving_runtime: str = parameter(
        "auto",
        "What serves: onnx (our server), torchserve, huggingface; auto: onnx where it is installed, else torchserve.",
        one_of("auto", "onnx", "torchserve", "huggingface"),
    )
    runtime_name: str = parameter("", "ServingRuntime; empty for the one that serving_runtime finds.", NAME_OR_EMPTY)
    model_store: str = parameter(
        "",
        "Where KServe reads the model: s3://bucket/folder, to upload it there; empty for the volume.",
        matches(r"|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w=-][\w.=-]*)*/*", "s3://bucket/folder, or empty"),
    )
    volume_claim: str = parameter(
        "nlp-pipeline",
        "Existing PersistentVolumeClaim, mounted into the steps.",
        # KFP names a volume by it, and a volume's name is shorter than a claim's, and without dots.
        matches(
            LABEL,
            "the name of a PersistentVolumeClaim, at most 63 characters, without dots: KFP names a pod's volume by it",
        ),
    )
    model_registry: str = parameter(
        "",
        "Kubeflow Model Registry to register with, as in http://model-registry.kubeflow:8080; needs an --image.",
        matches(r"|https?://[^/\s]+(/\S*)?", "http://host:port, https://host or empty"),
    )
    service_account: str = parameter(
        "", "Service account of the serving pods; empty for nlp-pipeline-serving with an S3 bucket.", NAME_OR_EMPTY
    )
    node_selector: dict[str, str] = parameter({}, "Labels of the nodes for steps and serving pods.", LABELS)
    tolerations: list[dict[str, str]] = parameter([], "Taints that they tolerate, as a pod has them.", TOLERATIONS)
    deployment_mode: str = parameter(
        "", "Knative, Standard, or empty for the cluster's default.", one_of("Knative", "Standard", "")
    )
    min_replicas: int = parameter(1, "Least number of serving pods; 0 (Knative) for none while no one asks.", COUNT)
    max_replicas: int = parameter(1, "Greatest number of serving pods; 0 for no limit on Knative.", COUNT)
    scale_metric: str = parameter(
        "",
        "What scales: concurrency or rps (Knative), cpu or memory; empty for KServe's own choice.",
        one_of("concurrency", "rps", "cpu", "memory", ""),
    )
    scale_target: int = parameter(0, "Value of the metric for each pod; 0 for KServe's own choice.", COUNT)
    serving_cpu: str = parameter("1", "CPUs that a serving pod uses at most.", CPU)
    serving_memory: str = parameter("4Gi", "Memory that a serving pod uses at most.", MEMORY)
    serving_gpus: int = parameter(0, "GPUs of a serving pod.", COUNT)
    istio_sidecar: bool = parameter(False, "Whether serving pods get an Istio sidecar.")
    canary_percent: int = parameter(
        0,
        "Percent of the traffic that a new release gets first; 0 for none; Knative only.",
        (lambda value: 0 <= value < 100, "from 0 to 99"),
    )
    canary_minutes: float = parameter(
        10.0, "Minutes for which it has that share.", (lambda value: 0 <= value < float("inf"), "0 or more")
    )
    deploy_timeout: int = parameter(900, "Seconds within which a release must be ready.", POSITIVE)
    first_failure: str = parameter(
        "stop", "If a first deployment fails: stop (keep the object without pods) or delete.", one_of("stop", "delete")
    )
    gateway: str = parameter(
        "",
        "Ingress gateway to ask through, by Host header; empty to ask the endpoint itself.",
        matches(r"|https?://[^/\s]+/?", "http://host:port, https://host or empty"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.max_replicas < self.min_replicas:
            raise UsageError(f"min_replicas is {self.min_replicas}, above max_replicas, {self.max_replicas}")
        if self.scale_target and not self.scale_metric:
            raise UsageError(f"scale_target={self.scale_target} needs a scale_metric")

    @property
    def takes_archive(self) -> bool:
        """Whether the archive is served, and not the model folder."""
        return self.serving_runtime != "huggingface"

    @property
    def serving_account(self) -> str:
        """The service account that the serving pods need, by which KServe finds a bucket's credentials."""
        return self.service_account or (SERVING_ACCOUNT if self.model_store else "")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where and how a release is deployed: the settings, and what is found out for them."""

    settings: DeploySettings
    limits: AgreementLimits = field(default_factory=AgreementLimits)
    run: Run  # who deploys it, and the model's name
    namespace: str = ""  # where it is served; empty before it is found out, as is
    runtime: str = ""  # the name of the ServingRuntime
    labels: list[str] = field(default_factory=list)  # in the order of their ids, for a server that answers with ids
    registered: dict[str, str] = field(default_factory=dict)  # labels by which a model registry knows what is deployed
    headers: dict[str, str] = field(default_factory=dict)  # what signs requests to the endpoint in
    transport: Any = None  # how httpx reaches a Service of the cluster from outside of it; None in a pod

    @property
    def name(self) -> str:
        """The name of the model, and of the InferenceService."""
        return self.run.model_name

    def uri_of(self, release: Release) -> str:
        """Returns where KServe reads a release: on the volume's claim, or in the bucket."""
        store = self.settings.model_store.rstrip("/") or f"pvc://{self.settings.volume_claim}"
        return f"{store}/{release.model_name}/releases/{release.digest}"
