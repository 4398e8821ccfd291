"""`--download` on Vertex AI: a run's artifacts from Cloud Storage, whole or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.vertex.cloud import Cloud
from tests.fakes.vertex.pipelines import Fate
from tests.vertex.conftest import TRAIN, Run

CONTENT = {
    "evaluate-model/report": b"<html>",
    "evaluate-model/metrics": b"{}",
    "train-model/model/config.json": b"{}",
    "train-model/model/model.safetensors": b"weights" * 1000,
    "archive-model/release/release.json": b'{"digest": "x"}',
    "archive-model/release/model-store/films.mar": b"archive" * 1000,
}


@pytest.fixture
def run_id(cloud: Cloud, run: Run) -> str:
    """A run that has ended, and what it wrote."""
    cloud.pipelines.fate = Fate(not_triggered=("condition-2",))
    run_id = str(json.loads(run("--submit", "--wait", *TRAIN, "--json")[1])["run_id"])
    (job,) = (item.job for item in cloud.pipelines.jobs.values())
    for detail in job.job_detail.task_details:
        for output, result in detail.outputs.items():
            place = result.artifacts[0].uri.removeprefix("gs://")
            for path, content in CONTENT.items():
                task, name, *rest = path.split("/")
                if (task, name) == (detail.task_name, output):
                    cloud.around.objects["/".join([place, *rest])] = content
            # It begins alike, and is another's.
            cloud.around.objects[f"{place}-2/other"] = b"other"
    return run_id


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def downloaded(run: Run, *argv: str) -> dict[str, Any]:
    code, out, err = run("--download", *argv, "--json")
    assert code == 0, err
    reported: dict[str, Any] = json.loads(out)
    return reported


def test_all_of_it(run_id: str, cloud: Cloud, run: Run) -> None:
    dry = downloaded(run, run_id, "--dry-run")
    assert dry["fetched_files"] == 6 and not any("/download/" in request.path for request in cloud.requests)
    reported = downloaded(run, run_id)
    folder = Path("outputs/runs") / run_id
    assert files(folder) == CONTENT
    assert reported == {
        **{"run_id": run_id, "state": "SUCCEEDED", "source": "gs://films/runs", "folder": str(folder)},
        **{"files": 6, "bytes": sum(map(len, CONTENT.values())), "fetched_files": 6},
        **{"fetched_bytes": sum(map(len, CONTENT.values())), "missing": [], "left_out": []},
        "artifacts": {
            **{"report": f"{folder}/evaluate-model/report", "metrics": f"{folder}/evaluate-model/metrics"},
            **{"model": f"{folder}/train-model/model", "archive": f"{folder}/archive-model/release"},
        },
    }
    assert cloud.changes == ["POST /v1/projects/my-project/locations/us-central1/pipelineJobs"]


def test_what_is_there_is_not_fetched_again(run_id: str, cloud: Cloud, run: Run) -> None:
    cloud.around.composed = {name.partition("/")[2] for name in cloud.around.objects if "safetensors" in name}
    downloaded(run, run_id, "--to", "here")
    Path("here/evaluate-model/report").unlink()
    Path("here/archive-model/release/release.json").unlink()
    since = len(cloud.requests)
    again = downloaded(run, run_id, "--to", "here")
    assert again["fetched_files"] == 2 and files(Path("here")) == CONTENT
    assert sum("/download/" in item.path for item in cloud.requests[since:]) == 2
    assert downloaded(run, run_id, "--to", "here")["fetched_files"] == 0


def test_what_comes_spoilt_is_not_kept(run_id: str, cloud: Cloud, run: Run) -> None:
    name = next(item for item in cloud.around.objects if item.endswith("films.mar"))
    cloud.around.spoilt.add(name)
    code, out, err = run("--download", run_id, "--to", "here")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"error: gs://{name} came otherwise than its checksum says: try later"
    assert "archive-model/release/model-store/films.mar" not in files(Path("here"))
    cloud.around.spoilt.clear()
    assert downloaded(run, run_id, "--to", "here")["files"] == 6 and files(Path("here")) == CONTENT


def test_what_is_wrong_is_one_line(run_id: str, cloud: Cloud, run: Run) -> None:
    code, _, err = run("--download", "unknown")
    assert code == 2 and err.splitlines()[-1].endswith("there is no run unknown in us-central1: --runs lists them")
    other = json.loads(run("--submit", *TRAIN, "--json")[1])["run_id"]
    code, _, err = run("--download", other)
    reported = f"run {other} has no artifacts (yet) in gs://films/runs: it is RUNNING"
    assert code == 1 and err.splitlines()[-1] == f"error: {reported}"
    cloud.around.granted.discard("storage.objects.get")
    code, _, err = run("--download", run_id, "--to", "there")
    assert code == 2 and "Permission 'storage.objects.get' denied" in err
