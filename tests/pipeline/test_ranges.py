from dataclasses import fields
from typing import Any

import pytest

from nlp_pipeline.errors import UsageError
from nlp_pipeline.parameters import ANYTHING
from nlp_pipeline.pipeline.parameters import PIPELINES, check_ranges

GOOD: dict[str, list[Any]] = {
    "volume_claim": ["claim", "team-claim-1", "a--b-0", "a" * 63],
    "environment_config": ["team-environment", "a" * 63],
    "node_selector": [{}, {"pool": "gpu", "kubernetes.io/os": "linux"}],
    "tolerations": [[], [{"key": "nvidia.com/gpu", "operator": "Exists"}]],
    "train_cpu": ["4", "0.5", "500m"],
    "train_memory": ["12Gi", "2Gi", "2200M"],
    "train_gpus": ["0", "1", "8"],
    "train_nodes": [1, 8],
    "train_runtime": ["torch-distributed"],
    "train_data": ["x.csv"],
    "text_column": ["text"],
    "label_column": ["label"],
    "evaluation_share": [0.001, 0.999],
    "max_bad_share": [0, 1],
    "doubtful_values": ["keep", "merge", "refuse"],
    "model_name": ["a", "a-1", "a" * 48],
    "base_model": ["a/b"],
    "epochs": [0.01, 100],
    "learning_rate": [1e-9, 0.5],
    "batch_size": [1],
    "max_length": [3],
    "weight_decay": [0, 0.9],
    "warmup_share": [0, 0.9],
    "max_train_rows": [0, 1],
    "max_steps": [0, 1],
    "seed": [0, 2**32 - 1],
    "min_accuracy": [0, 1],
    "champion": ["live", "release", "none", "0123456789abcdef"],
    "metric": ["accuracy", "macro_f1", "log_loss", "recall:so so"],
    "require": ["not_worse", "better", "floor"],
    "min_gain": [0, 0.01, 1],
    "long_texts": ["cut", "head_tail", "windows"],
    "precision": ["auto", "int8", "fp32"],
    "max_quantisation_drop": [0, 0.005, 1],
    "validation_rows": [0, 1],
    "min_agreement": [0, 1],
    "max_accuracy_drop": [0, 1],
    "namespace": ["", "team-a"],
    "s3_secret": ["s3", "my.s3-1"],
    "hub_secret": ["hub"],
    "notify_secret": ["notify"],
    "service_account": ["", "serving"],
    "runtime_name": ["", "runtime"],
    "serving_runtime": ["auto", "onnx", "torchserve", "huggingface"],
    "model_store": ["", "s3://bucket", "s3://bucket/folder"],
    "deployment_mode": ["", "Knative", "Standard"],
    "min_replicas": [0, 1],
    "max_replicas": [0, 1],
    "scale_metric": ["", "concurrency", "rps", "cpu", "memory"],
    "scale_target": [0, 10],
    "serving_cpu": ["1"],
    "serving_memory": ["2Gi"],
    "serving_gpus": [0, 1],
    "canary_percent": [0, 99],
    "canary_minutes": [0, 0.5],
    "deploy_timeout": [1],
    "endpoint_rows": [1],
    "first_failure": ["stop", "delete"],
    "model_registry": ["", "http://registry.team:8080", "https://gateway/registry"],
    "gateway": ["", "http://localhost:8080", "https://gateway/"],
}
NAN = float("nan")
BAD: dict[str, list[Any]] = {
    "volume_claim": ["", "Claim", "a b", "a.b", "-a", "a-", "a" * 64, "a\n"],
    "environment_config": ["", "Config", "a.b", "a" * 64],
    "node_selector": [{"pool": 1}],
    "tolerations": [["key"], [{"key": "gpu"}]],
    "train_cpu": ["lots", "", "-1"],
    "train_memory": ["2GB", "", "12 Gi", "12000000K"],
    "train_gpus": ["00", "-1", "1.5", ""],
    "train_nodes": [0, -1],
    "train_runtime": ["", "Torch"],
    "train_data": ["", " "],
    "text_column": [""],
    "label_column": [""],
    "evaluation_share": [0, 1, NAN],
    "max_bad_share": [-0.1, 1.1, 5, NAN],
    "doubtful_values": ["", "Keep", "drop"],
    "model_name": ["", "A", "1a", "a-", "a_b", "a/b", "../a", "a" * 49, "a\n"],
    "base_model": [""],
    "epochs": [0, -1, float("inf"), NAN],
    "learning_rate": [0, 1, NAN],
    "batch_size": [0, -1],
    "max_length": [0, 2],
    "weight_decay": [-0.1, 1],
    "warmup_share": [-0.1, 1],
    "max_train_rows": [-1],
    "max_steps": [-1],
    "seed": [-1, 2**32],
    "min_accuracy": [-0.1, 80, NAN],
    "champion": ["", "former", "0123456789ABCDEF", "../x"],
    "metric": ["", "f1", "recall:", "recall"],
    "require": ["", "worse"],
    "min_gain": [-0.1, 1.5, NAN],
    "long_texts": ["CUT", "", "tail"],
    "precision": ["int4", "INT8", ""],
    "max_quantisation_drop": [1.5, -0.1, NAN],
    "validation_rows": [-1],
    "min_agreement": [97, -1, NAN],
    "max_accuracy_drop": [1.5, -0.1, NAN],
    "namespace": ["Team", "a.b", "-a"],
    "s3_secret": ["", "S3", "-a"],
    "hub_secret": ["", "a/b"],
    "notify_secret": ["", "a/b"],
    "service_account": ["Serving", "a b"],
    "runtime_name": ["a_b"],
    "serving_runtime": ["triton", ""],
    "model_store": ["gs://bucket", "bucket"],
    "deployment_mode": ["Serverless", "knative"],
    "min_replicas": [-1],
    "max_replicas": [-1],
    "scale_metric": ["qps"],
    "scale_target": [-1],
    "serving_cpu": ["much"],
    "serving_memory": ["2GB"],
    "serving_gpus": [-1],
    "canary_percent": [-1, 100],
    "canary_minutes": [-1, float("inf"), NAN],
    "deploy_timeout": [0],
    "endpoint_rows": [0],
    "first_failure": ["keep", ""],
    "model_registry": ["registry:8080", "http://", "http://host/a b"],
    "gateway": ["localhost:8080", "http://", "http://host/path"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_what_is_in_range_passes(name: str, value: object) -> None:
    check_ranges({"scale_metric": "cpu", "max_replicas": 9, name: value})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_what_is_not_is_named_in_one_line(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name} is .*: it must be ") as raised:
        check_ranges({name: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas is 3, above max_replicas, 2"),
        ({"scale_target": 5}, "scale_target=5 needs a scale_metric"),
    ],
)
def test_what_makes_no_sense_together(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_ranges(values)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("lengths", "mode", "excess"),
    [
        ((43, 4), "", 0),
        ((43, 5), "", 1),
        ((44, 3), "", 1),
        ((20, 27), "Standard", 0),
        ((20, 40), "Standard", 13),
        ((1, 47), "", 1),
        ((46, 63), "Knative", 0),
        ((48, 1), "Knative", 2),
    ],
)
def test_a_name_that_leaves_no_room_for_kserves_own(lengths: tuple[int, int], mode: str, excess: int) -> None:
    name, namespace = "m" * lengths[0], "n" * lengths[1]
    values = {"model_name": name, "namespace": namespace, "deployment_mode": mode}
    check_ranges({**values, "deploy": False})
    check_ranges({"model_name": name})  # where the namespace is not known
    if not excess:
        return check_ranges(values)
    with pytest.raises(UsageError) as raised:
        check_ranges(values)
    longest = f"latest-{name}-predictor" if mode == "Knative" else f"{name}-next-predictor"
    assert str(raised.value).startswith(f"model_name={name} is too long by {excess}: ") and longest in str(raised.value)


@pytest.mark.parametrize("platform", PIPELINES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text_column", "{{$.Name}}"),
        ("label_column", "{{$}}"),
        ("train_data", "/mnt/{{$.inputs.parameters['seed']}}.csv"),
        ("evaluation_data", "s3://b/{{workflow.name}}"),
        ("base_model", "{{=1+1}}"),
    ],
)
def test_what_kubeflow_would_put_something_else_for_is_refused(name: str, value: str, platform: str) -> None:
    """kfp.local and Argo look for placeholders in all that a step is given, a parameter's value too."""
    with pytest.raises(UsageError, match=f"^{name} is .*: it must be without '{{{{', which begins a placeholder"):
        check_ranges({name: value}, platform)


def test_the_defaults_are_in_range() -> None:
    check_ranges({})


def test_every_range_is_tested() -> None:
    declared = [one for kind in PIPELINES["kubeflow"].settings for one in fields(kind)]
    ranged = {one.name for one in declared if one.metadata.get("allowed", ANYTHING) is not ANYTHING}
    assert ranged == set(BAD) == set(GOOD)
