"""The pipeline's parameters: which settings a platform's pipeline has, and what `--set NAME=VALUE` makes of them."""

import difflib
import json
import math
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, dataclass, fields, make_dataclass
from typing import Any, get_origin

from nlp_pipeline.deploy.settings import CPU, DNS_NAME, LABEL, MEMORY, DeploySettings, check_host_name
from nlp_pipeline.errors import UsageError
from nlp_pipeline.parameters import POSITIVE, Settings, matches, parameter
from nlp_pipeline.pipeline.admission import check_pods
from nlp_pipeline.serving.agreement import AgreementLimits
from nlp_pipeline.steps.archive_model.settings import ArchiveSettings
from nlp_pipeline.steps.batch_predict.settings import BatchSettings
from nlp_pipeline.steps.detect_drift.settings import DriftSettings
from nlp_pipeline.steps.evaluate_model.settings import ChampionSettings, ComparisonLimits, GateSettings
from nlp_pipeline.steps.load_data.settings import LoadSettings, split_addresses
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.vertex.settings import VertexSettings, check_together
from nlp_pipeline.volume import Run

NAME = "nlp-pipeline"
# How `--set` reads values of some kinds, and what each kind is.
READERS: dict[type, Callable[[str], Any]] = {
    bool: lambda value: {"true": True, "false": False}[value.lower()],
    dict: json.loads,
    list: json.loads,
}
KINDS = {int: "an integer", float: "a number", bool: "true or false", dict: "an object of JSON", list: "a list of JSON"}
SECRET = matches(DNS_NAME, "the name of a Secret, which need not exist")


@dataclass(frozen=True, kw_only=True)
class GraphSettings(Settings):
    """How far the pipeline goes, and how much is asked on the way."""

    validation_rows: int = parameter(
        500,
        "Evaluation rows to ask the served model for; 0 for all.",
        (lambda value: value >= 0, "0 for all, or a number above"),
    )
    deploy: bool = parameter(True, "Whether to deploy the release once it is validated.")
    endpoint_rows: int = parameter(100, "Evaluation rows to ask the deployed model for.", POSITIVE)


@dataclass(frozen=True, kw_only=True)
class KubeflowSettings(Settings):
    """What the steps' pods get."""

    train_cpu: str = parameter("500m", "CPUs that a node must have free for training; it uses what is there.", CPU)
    train_memory: str = parameter("12Gi", "Memory that training and evaluation use at most.", MEMORY)
    train_gpus: str = parameter(
        "0",
        "GPUs of training, which uses all, and of evaluation, which uses one.",
        matches(r"0|[1-9]\d{0,2}", "a whole number, as in '4'; '0' for none"),
    )
    train_nodes: int = parameter(
        1, "Nodes that train; several by a TrainJob of Kubeflow Trainer, which needs an --image.", POSITIVE
    )
    train_runtime: str = parameter(
        "torch-distributed", "Kubeflow Trainer's training runtime, for several nodes.", matches(DNS_NAME, "a name")
    )
    s3_secret: str = parameter(
        "nlp-pipeline-s3", "Secret with the S3 credentials and endpoint; need not exist without S3.", SECRET
    )
    environment_config: str = parameter(
        "nlp-pipeline-environment",
        "ConfigMap whose keys are the steps' environment, ca.crt a CA to trust; need not exist.",
        matches(LABEL, "the name of a ConfigMap without dots, which need not exist"),
    )
    hub_secret: str = parameter(
        "nlp-pipeline-hub", "Secret whose HF_TOKEN opens private models and data of the hub; need not exist.", SECRET
    )
    notify_secret: str = parameter(
        "nlp-pipeline-notify",
        "Secret with NOTIFY_URL and NOTIFY_SLACK_URL, which are told how a run ended; need not exist.",
        SECRET,
    )


@dataclass(frozen=True, kw_only=True)
class PodSettings(Settings):
    """What the pods get that classify."""

    pod_cpu: str = parameter("500m", "CPUs that a node must have free for each pod; it uses what is there.", CPU)
    pod_gpus: str = parameter(
        "0", "GPUs of each pod, which uses one; needs an --image.", matches("[01]", "'1', or '0' for none")
    )


def some_of(kind: type[Settings], *names: str) -> type[Settings]:
    """Returns settings that have only some of the parameters of others."""
    chosen: list[Any] = [(item.name, item.type, copy(item)) for item in fields(kind) if item.name in names]
    return make_dataclass(kind.__name__, chosen, bases=(Settings,), frozen=True, kw_only=True)


@dataclass(frozen=True)
class Pipeline:
    """A pipeline on a platform."""

    name: str  # in Kubeflow
    platform: str  # "kubeflow" or "vertex"
    graph: str  # what kfp's pipeline is called, and, with ".yaml", its compiled file
    settings: tuple[type[Any], ...]  # in the order of its signature


SHARED = (LoadSettings, Run, TrainSettings, GateSettings, ArchiveSettings, AgreementLimits, GraphSettings)
TRAINING = (*SHARED, ChampionSettings, ComparisonLimits, KubeflowSettings, DeploySettings)
POD = (
    some_of(KubeflowSettings, "s3_secret", "environment_config"),
    some_of(DeploySettings, "volume_claim", "node_selector", "tolerations"),
)
COLUMNS = some_of(LoadSettings, "text_column", "label_column", "label_separator")
# The pipeline that trains, by its platform, and the others, all on Kubeflow, by what `--pipeline` calls them: the names
# of their modules, too.
PIPELINES = {
    "kubeflow": Pipeline(NAME, "kubeflow", "nlp_pipeline", TRAINING),
    "vertex": Pipeline(NAME, "vertex", "nlp_pipeline_vertex", (*SHARED, VertexSettings)),
    "drift": Pipeline(f"{NAME}-drift", "kubeflow", "nlp_pipeline_drift", (DriftSettings, COLUMNS, Run, *POD)),
    "batch": Pipeline(
        f"{NAME}-batch",
        "kubeflow",
        "nlp_pipeline_batch",
        (BatchSettings, some_of(LoadSettings, "text_column"), Run, PodSettings, *POD),
    ),
}
TRAIN = "train"
OTHERS = [name for name, pipeline in PIPELINES.items() if name != pipeline.platform]


def find_pipeline(platform: str, pipeline: str) -> str:
    """Returns the key in PIPELINES of what `--platform` and `--pipeline` name."""
    if pipeline != TRAIN and pipeline not in OTHERS:
        raise UsageError(f"there is no pipeline {pipeline!r}: they are {', '.join([TRAIN, *OTHERS])}")
    if pipeline != TRAIN and platform != PIPELINES[pipeline].platform:
        raise UsageError(f"--pipeline {pipeline} goes with --platform {PIPELINES[pipeline].platform}, not {platform}")
    return platform if pipeline == TRAIN else pipeline


@dataclass(frozen=True)
class Parameter:
    """A parameter of the pipeline; without a default, a value must be given."""

    name: str
    kind: type  # str, int, float, bool; or dict or list, of JSON
    default: Any  # None where there is none
    description: str


def pipeline_parameters(pipeline: str = "kubeflow") -> dict[str, Parameter]:
    """Returns the parameters of one of PIPELINES by name, in the order of its signature."""
    return {
        field.name: Parameter(
            field.name,
            get_origin(field.type) or field.type,  # type: ignore[arg-type]  # a class: nothing postpones annotations
            field.default_factory()
            if field.default_factory is not MISSING
            else None
            if field.default is MISSING
            else field.default,
            field.metadata["description"],
        )
        for settings in PIPELINES[pipeline].settings
        for field in fields(settings)
        if "description" in field.metadata
    }


def with_defaults(values: dict[str, Any], pipeline: str = "kubeflow") -> dict[str, Any]:
    """Returns all parameters of one of PIPELINES: these values, and the others' defaults."""
    return {name: declared.default for name, declared in pipeline_parameters(pipeline).items()} | values


def parse_settings(settings: list[str], pipeline: str = "kubeflow") -> dict[str, Any]:
    """Returns what `--set` was given, in the parameters' types.

    Args:
        settings: `NAME=VALUE` each; of a name that stands twice the last counts.
        pipeline: One of PIPELINES.

    Raises:
        UsageError: There is no "=", no such parameter, or the value is not of its type.
    """
    parameters = pipeline_parameters(pipeline)
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting!r} has no '=': write --set NAME=VALUE, as in --set epochs=3")
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the parameters are {', '.join(parameters)}"
            raise UsageError(f"--set {setting!r}: the pipeline has no parameter {name!r}; {hint}")
        kind = parameters[name].kind
        try:
            values[name] = READERS.get(kind, kind)(value)
            if not isinstance(values[name], kind) or (kind is float and not math.isfinite(values[name])):
                raise ValueError
        except (ValueError, KeyError):
            example = str(parameters[name].default).lower()
            raise UsageError(f"--set {setting!r}: {name} is {KINDS[kind]}, as in --set {name}={example}") from None
    return values


def check_run(values: dict[str, Any], pipeline: str, paths: str, example: str) -> None:
    """Raises UsageError where a run of one of PIPELINES can't begin with these parameters.

    `paths` is how the paths of files begin that its steps see; `example` is an address of data.
    """
    refuse_passwords(values)
    check_ranges(values, pipeline)
    for name, declared in pipeline_parameters(pipeline).items():
        if declared.default is None and name not in values:
            raise UsageError(f"{name} is not set: --set {name}=URL, or {example}")
    for name in ("train_data", "evaluation_data", "data", "to"):
        for source in split_addresses(str(values.get(name, ""))):
            if source and "://" not in source and not source.startswith(paths):
                raise UsageError(f"{name}={source}: the steps don't see this machine's files: give a URL, or {example}")


def refuse_passwords(values: dict[str, Any]) -> None:
    """Makes sure that no address among the parameters holds a password: parameters are stored and shown.

    Raises:
        UsageError: One does; the message does not show it.
    """
    for name, value in values.items():
        addresses = split_addresses(value) if isinstance(value, str) else []
        if any("@" in address.partition("://")[2].partition("/")[0] for address in addresses):
            raise UsageError(
                f"{name} holds a user or a password, and parameters are stored and shown: leave it out of the address; "
                "for s3:// put it into the Secret that s3_secret names"
            )


def check_ranges(values: dict[str, Any], pipeline: str = "kubeflow") -> None:
    """Makes sure that the parameters of one of PIPELINES are in their ranges, the others having their defaults.

    A step would find out too, but maybe an hour later.

    Raises:
        UsageError: One is not in its range, or does not go with another.
    """
    for name, value in values.items():
        if "{{" in str(value):
            raise UsageError(f"{name} is {value!r}: it must be without '{{{{', which begins a placeholder of KFP")
    # What is no parameter is put in when the pipeline runs; what must be given is asked for elsewhere.
    complete = {"run_id": "-", **with_defaults(values, pipeline)}
    complete = {name: "-" if value is None else value for name, value in complete.items()}
    settings = [kind.of(complete) for kind in PIPELINES[pipeline].settings]
    if pipeline == "vertex":
        check_together(settings[-1], complete["model_name"], complete["base_model"], complete["deploy"])
        return
    check_pods(complete)
    if complete.get("deploy") and complete["namespace"]:
        # The cluster's default mode is not known here.
        is_knative = complete["deployment_mode"] == "Knative"
        check_host_name(complete["model_name"], complete["namespace"], is_knative)
