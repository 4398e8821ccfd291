"""From an empty namespace to an endpoint and back, as a user does it, command by command.

It is played on a real cluster (`make cluster-test`, see docs/cluster.md) and on emulators of Kubeflow Pipelines and
Kubernetes. Only a real one shows that Argo can store the workflow, that pods start and may write to the volume, that
KServe's controller and the serving image do their part, the dark launch as a step does it, and the schedule's clock.
On the emulators a step is a process with the compiled command line, and our own server answers for the endpoint.
"""

import json
from pathlib import Path

import pytest

from tests.cluster.emulated import emulated_site
from tests.cluster.real import filling_pod
from tests.cluster.site import CLAIM, FILES, NAME, Site, settings, wait_until
from tests.fakes.kubernetes.pod_security import violations


def wait_for_run(site: Site, schedule: str) -> str:
    """Waits until a schedule has fired, and returns the id of its run."""

    def last_run() -> str:
        (row,) = [row for row in site.run("--schedules") if row["name"] == schedule]
        return str(row["last_run"] or "")

    return wait_until(last_run, "the schedule has fired")


def test_from_an_empty_namespace_to_an_endpoint_and_back(site: Site) -> None:
    place = list(settings(namespace=site.namespace, volume_claim=CLAIM))
    model = list(settings(namespace=site.namespace, model_name=NAME))
    parameters = list(
        settings(
            volume_claim=CLAIM,
            train_data=f"{FILES}/train.csv",
            evaluation_data=f"{FILES}/evaluation.csv",
            base_model=f"{FILES}/encoder",
            model_name=NAME,
            validation_rows=40,
            endpoint_rows=20,
            **site.training,
            **site.reach,
        )
    )

    # What the namespace needs
    site.apply(site.run("--manifests", *place))
    site.fill_claim()
    findings = site.run("--doctor", *parameters)
    assert not [finding for finding in findings if finding["ok"] is False and finding["required"]], findings

    # A release
    uploaded = site.run("--upload")
    site.undoing["--undeploy"] = ("--undeploy", *model)
    run = site.run("--submit", "--wait", "--timeout", str(site.patience - 60), *parameters)
    assert (run["state"], run["steps"]["deploy_model"]["state"]) == ("SUCCEEDED", "SUCCEEDED")
    assert run["name"].startswith(uploaded["version"])
    first = site.release()
    asked = site.run("--predict", *site.texts, "--deployed", *model)["predictions"]
    assert [item["text"] for item in asked] == list(site.texts)
    assert all(item["label"] in site.labels and 0.5 <= item["score"] <= 1 for item in asked)

    # Another one, by a schedule that fires once
    site.undoing["--unschedule"] = ("--unschedule", NAME, "--force")
    schedule = ("--schedule", "0 * * * * *", "--schedule-name", NAME)
    assert site.run(*schedule, *parameters, *settings(seed=2))["action"] == "created"
    site.fire(NAME)
    run_id = wait_for_run(site, NAME)
    assert site.run("--pause", NAME)["action"] == "paused"
    assert site.run("--wait", run_id, "--timeout", str(site.patience - 60))["state"] == "SUCCEEDED"
    second = site.release()
    assert first and second and first != second

    # What it has left
    fetched = site.run("--download", run_id, "--to", "fetched")
    assert fetched["artifacts"].keys() >= {"report", "metrics", "model", "archive"} and not fetched["missing"]
    archive = Path(site.folder, fetched["artifacts"]["archive"])
    assert json.loads((archive / "release.json").read_text(encoding="utf-8"))["digest"] == second
    assert json.loads(Path(site.folder, fetched["artifacts"]["metrics"]).read_text(encoding="utf-8"))["accuracy"] > 0

    # And back
    assert site.run("--rollback", *model)["release"] == first == site.release()
    again = site.run("--predict", *site.texts, "--deployed", *model)["predictions"]
    assert [item["label"] for item in again] == [item["label"] for item in asked]
    assert all(abs(now["score"] - then["score"]) < 0.01 for now, then in zip(again, asked, strict=True))

    # Nothing stays
    assert site.undo("--undeploy")["outcome"] == "deleted"
    wait_until(lambda: site.release() == "", "the InferenceService is gone")
    assert site.undo("--unschedule")["action"] == "removed"
    site.remove_objects()
    site.inspect()


@pytest.mark.slow
def test_what_was_made_is_removed_where_it_fails_midway(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), emulated_site(tmp_path, tmp_path) as site:
        site.apply(site.run("--manifests", *settings(namespace=site.namespace, volume_claim=CLAIM)))
        assert site.objects
        site.undoing["--undeploy"] = ("--undeploy", *settings(namespace=site.namespace, model_name=NAME))
        site.undoing["--unschedule"] = ("--unschedule", NAME, "--force")
        site.run("--schedule", "0 * * * * *", "--schedule-name", NAME, *settings(train_data=f"{FILES}/train.csv"))
        raise ZeroDivisionError
    assert site.k.api.recurring_runs == [] and site.objects == []
    assert not [name for kind, _, name in site.cluster.objects if kind in ("roles", "persistentvolumeclaims")]


def test_the_pod_that_fills_the_claim_passes_pod_security_restricted() -> None:
    assert violations(filling_pod("nlp-pipeline-steps:0.1.0", 1000)["spec"]) == []
