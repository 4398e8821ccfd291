from dataclasses import fields
from typing import Any

import pytest

from nlp_pipeline.errors import UsageError
from nlp_pipeline.parameters import ANYTHING
from nlp_pipeline.pipeline.parameters import PIPELINES, check_ranges

NAN = float("nan")
# Of each parameter what is in its range, at its ends, and what is not.
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "volume_claim": (["team-claim-1", "a--b-0", "a" * 63], ["", "Claim", "a b", "a.b", "a-", "a" * 64, "a\n"]),
    "environment_config": (["team-environment", "a" * 63], ["", "a.b", "a" * 64]),
    "node_selector": ([{}, {"pool": "gpu", "kubernetes.io/os": "linux"}], [{"pool": 1}]),
    "tolerations": ([[], [{"key": "nvidia.com/gpu", "operator": "Exists"}]], [["key"], [{"key": "gpu"}]]),
    "train_cpu": (["4", "0.5", "500m"], ["lots", "", "-1"]),
    "train_memory": (["12Gi", "2Gi", "2200M"], ["2GB", "", "12 Gi", "12000000K"]),
    "train_gpus": (["0", "8"], ["00", "-1", "1.5", ""]),
    "train_nodes": ([1, 8], [0]),
    "train_runtime": (["torch-distributed"], ["", "Torch"]),
    "train_data": (["x.csv"], ["", " "]),
    "text_column": (["text"], [""]),
    "label_column": (["label"], [""]),
    "evaluation_share": ([0.001, 0.999], [0, 1, NAN]),
    "max_bad_share": ([0, 1], [-0.1, 1.1, NAN]),
    "doubtful_values": (["keep", "merge", "refuse"], ["", "Keep"]),
    "model_name": (["a", "a-1", "a" * 48], ["", "A", "1a", "a-", "a_b", "../a", "a" * 49, "a\n"]),
    "base_model": (["a/b"], [""]),
    "epochs": ([0.01, 100], [0, float("inf"), NAN]),
    "learning_rate": ([1e-9, 0.5], [0, 1, NAN]),
    "batch_size": ([1], [0]),
    "max_length": ([3], [2]),
    "weight_decay": ([0, 0.9], [-0.1, 1]),
    "warmup_share": ([0, 0.9], [-0.1, 1]),
    "max_train_rows": ([0], [-1]),
    "max_steps": ([0], [-1]),
    "seed": ([0, 2**32 - 1], [-1, 2**32]),
    "min_accuracy": ([0, 1], [-0.1, 80, NAN]),
    "champion": (["live", "release", "none", "0123456789abcdef"], ["", "former", "0123456789ABCDEF", "../x"]),
    "metric": (["accuracy", "macro_f1", "log_loss", "recall:so so"], ["", "f1", "recall:", "recall"]),
    "require": (["not_worse", "better", "floor"], ["", "worse"]),
    "min_gain": ([0, 1], [-0.1, 1.5, NAN]),
    "long_texts": (["cut", "head_tail", "windows"], ["CUT", ""]),
    "precision": (["auto", "int8", "fp32"], ["int4", ""]),
    "max_quantisation_drop": ([0, 1], [1.5, -0.1, NAN]),
    "validation_rows": ([0], [-1]),
    "min_agreement": ([0, 1], [97, -1, NAN]),
    "max_accuracy_drop": ([0, 1], [1.5, -0.1, NAN]),
    "namespace": (["", "team-a"], ["Team", "a.b", "-a"]),
    "s3_secret": (["my.s3-1"], ["", "S3", "-a"]),
    "hub_secret": (["hub"], ["", "a/b"]),
    "notify_secret": (["notify"], ["", "a/b"]),
    "service_account": (["", "serving"], ["Serving", "a b"]),
    "runtime_name": (["", "runtime"], ["a_b"]),
    "serving_runtime": (["auto", "onnx", "torchserve", "huggingface"], ["triton", ""]),
    "model_store": (["", "s3://bucket", "s3://bucket/folder"], ["gs://bucket", "bucket"]),
    "deployment_mode": (["", "Knative", "Standard"], ["Serverless"]),
    "min_replicas": ([0, 1], [-1]),
    "max_replicas": ([0, 1], [-1]),
    "scale_metric": (["", "concurrency", "rps", "cpu", "memory"], ["qps"]),
    "scale_target": ([0, 10], [-1]),
    "serving_cpu": (["1"], ["much"]),
    "serving_memory": (["2Gi"], ["2GB"]),
    "serving_gpus": ([0, 1], [-1]),
    "canary_percent": ([0, 99], [-1, 100]),
    "canary_minutes": ([0, 0.5], [-1, float("inf"), NAN]),
    "deploy_timeout": ([1], [0]),
    "endpoint_rows": ([1], [0]),
    "first_failure": (["stop", "delete"], ["keep", ""]),
    "model_registry": (["", "http://registry.team:8080", "https://host/path"], ["host:8080", "http://", "http://a b"]),
    "gateway": (["", "http://localhost:8080", "https://gateway/"], ["localhost:8080", "http://", "http://host/path"]),
}  # fmt: skip


@pytest.mark.parametrize("name", RANGES)
def test_what_is_not_in_range_is_named_in_one_line(name: str) -> None:
    good, bad = RANGES[name]
    for value in good:
        check_ranges({"scale_metric": "cpu", "max_replicas": 9, name: value})
    for value in bad:
        with pytest.raises(UsageError, match=f"^{name} is [^\n]*: it must be [^\n]*$"):
            check_ranges({name: value})


def test_what_makes_no_sense_together() -> None:
    with pytest.raises(UsageError, match=r"^min_replicas is 3, above max_replicas, 2"):
        check_ranges({"min_replicas": 3, "max_replicas": 2})
    with pytest.raises(UsageError, match=r"^scale_target=5 needs a scale_metric"):
        check_ranges({"scale_target": 5})


@pytest.mark.parametrize(
    ("lengths", "mode", "excess"),
    [
        ((43, 4), "", 0),
        ((44, 3), "", 1),
        ((20, 40), "Standard", 13),
        ((1, 47), "", 1),
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
def test_what_kubeflow_would_put_something_else_for_is_refused(platform: str) -> None:
    """kfp.local and Argo look for placeholders in all that a step is given, a parameter's value too."""
    with pytest.raises(UsageError, match=r"^text_column is .*: it must be without '{{', which begins a placeholder"):
        check_ranges({"text_column": "s3://b/{{workflow.name}}"}, platform)


def test_the_defaults_are_in_range() -> None:
    check_ranges({})


def test_every_range_is_tested() -> None:
    declared = [one for kind in PIPELINES["kubeflow"].settings for one in fields(kind)]
    ranged = {one.name for one in declared if one.metadata.get("allowed", ANYTHING) is not ANYTHING}
    assert ranged == set(RANGES)
