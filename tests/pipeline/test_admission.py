"""What Kubernetes and KFP would refuse after a run is submitted; each number is theirs."""

from typing import Any

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.parameters import check_ranges

KEY = {"key": "pool", "operator": "Exists"}


def test_what_kubernetes_takes_passes() -> None:
    check_ranges({"node_selector": {"pool": "", "a" * 63: "b" * 63, f"{'a' * 250}.io/{'b' * 63}": "V1_x.y"}})
    equal = {"key": "a/b", "operator": "Equal", "value": "x"}
    seconds = {**KEY, "effect": "NoExecute", "tolerationSeconds": 300}
    check_ranges({"tolerations": [KEY, {"operator": "Exists"}, equal, seconds], "train_memory": "2Gi"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # Labels: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
        ({"node_selector": {"a" * 64: "x"}}, "node_selector has the key 'aaa"),
        ({"node_selector": {"a/b/c": "x"}}, "node_selector has the key 'a/b/c'"),
        ({"node_selector": {"pool": "v" * 64}}, "node_selector has pool='vvv"),
        # Tolerations: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
        ({"tolerations": [{"key": "a", "operator": "exists"}]}, "operator must be Exists or Equal"),
        ({"tolerations": [{"operator": "Equal", "value": "x"}]}, "without a key, operator must be Exists"),
        ({"tolerations": [{"key": "a b", "operator": "Exists"}]}, "key must be a taint's"),
        ({"tolerations": [{**KEY, "value": "x"}]}, "value must be left out"),
        ({"tolerations": [{"key": "a", "operator": "Equal", "value": "v" * 64}]}, "value must have at most 63"),
        ({"tolerations": [{**KEY, "effect": "NoRun"}]}, "effect must be NoSchedule, PreferNoSchedule, NoExecute, or"),
        ({"tolerations": [{**KEY, "effect": "NoSchedule", "tolerationSeconds": 3}]}, "tolerationSeconds must be"),
        ({"tolerations": [{**KEY, "seconds": 3}]}, "seconds is no field of a toleration"),
        ({"tolerations": [{**KEY, "value": 1}]}, "must be texts"),
        # A pod's volumes have different names; those of KFP 2.17 stand in its argocompiler/container.go.
        ({"volume_claim": "kfp-launcher"}, "volume_claim is 'kfp-launcher', as KFP names a volume of its own"),
        ({"volume_claim": "shm"}, "volume_claim is 'shm', as KFP names"),
        ({"volume_claim": "team", "environment_config": "team"}, "are both 'team'"),
        # A container's request is at most its limit.
        ({"train_memory": "1Gi"}, "train_memory is 1Gi: it must be 2Gi or more"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_kubernetes_would_refuse_in_a_pod(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_ranges(values)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_users_number_has_31_bits() -> None:
    with pytest.raises(UsageError, match="--run-as-user 2147483648: Kubernetes takes 0 to 2147483647"):
        compile_pipeline(run_as_user=2**31)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--namespace team.a", "namespace is 'team.a': it must be the name of a namespace"),
        # 63 characters for a namespace, 253 for an account, and 128 bytes for KFP's experiments.
        (f"--namespace {'n' * 64}", "it must be the name of a namespace"),
        (f"--service-account {'a' * 254}", "it must be the name of a ServiceAccount"),
        ("--service-account a..b", "it must be the name of a ServiceAccount"),
        (f"--experiment {'e' * 129}", "give a name of at most 128"),
        (f"--experiment {'ä' * 65}", "give a name of at most 128"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_names_are_refused_in_a_dry_run_too(flags: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"--submit --dry-run --set train_data=s3://b/x.csv --set deploy=false {flags}"
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err


def test_by_hand_a_release_is_not_deployed_to_nodes_that_can_not_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--deploy", "--release", "pvc://c/m/releases/0123456789abcdef", "--set", 'node_selector={"a b": "c"}']
    assert main(line) == 2
    assert "node_selector has the key 'a b'" in capsys.readouterr().err
