"""The training on two nodes for real: processes of this machine in the place of pods, with gloo."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.train_job import follow
from nlp_pipeline.train_job.follow import train_on_nodes
from nlp_pipeline.volume import VARIABLE, Run
from tests.conftest import TRAINING, make_rows, write_parquet
from tests.fakes.kubernetes.emulator import Cluster
from tests.fakes.kubernetes.trainer import Nodes
from tests.train_job.conftest import RUNTIME

pytestmark = pytest.mark.slow


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose rows lie on the volume, in a cluster whose TrainJobs run here."""
    run = Run(model_name="tiny", run_id="run", volume_path=str(tmp_path / "volume"))
    assert run.folder
    (run.folder / "datasets").mkdir(parents=True)
    write_parquet(run.folder / "datasets" / "train.parquet", make_rows(120))
    cluster.start_nodes = lambda job: Nodes(job, tmp_path, {VARIABLE: run.volume_path})
    monkeypatch.setattr(follow, "EVERY", 0.5)
    return run


def train(run: Run, model: Path, nodes: int = 2, **settings: Any) -> dict[str, Any]:
    chosen = TrainSettings(**{**TRAINING, **settings})
    return train_on_nodes(nodes, RUNTIME, str(model), chosen, 1, run, {"source": "a.csv"})


def test_two_nodes_train_one_model(
    run: Run, cluster: Cluster, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = train(run, tmp_path / "model", base_model=str(encoder))
    assert (facts["rows"], facts["steps"], facts["processes"]) == (120, 23, 2) and "source" not in facts
    written = json.loads((tmp_path / "model" / "training.json").read_text())
    assert written["source"] == "a.csv" and written["loss_curve"][-1][0] == facts["steps"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert model.config.label2id == {"0": 0, "4": 1}
    said = capsys.readouterr().out
    assert said.count("\nstep 23/23") == 1 and "TrainJob team/train-run: 2 of 2 nodes run\n" in said
    assert cluster.deleted_jobs == ["train-run"]


def test_what_a_node_refuses_is_one_line(run: Run, cluster: Cluster, encoder: Path, tmp_path: Path) -> None:
    line = r"pod train-run-node-0-0-abcde: Error, exit code 1: error: max_length is 1000: .* reads at most 64 tokens$"
    with pytest.raises(PipelineError, match=f"^TrainJob team/train-run failed: {line}"):
        train(run, tmp_path / "model", 1, base_model=str(encoder), max_length=1000)
    assert cluster.deleted_jobs == ["train-run"]


def test_a_node_that_is_killed_ends_the_training(run: Run, cluster: Cluster, encoder: Path, tmp_path: Path) -> None:
    def kill_second() -> None:
        for nodes in cluster.nodes.values():
            if "step " in nodes.logs[0].read_text():
                nodes.end(1)

    cluster.watchers.append(kill_second)
    line = "pod train-run-node-0-1-abcde: Error, exit code 137: .*: it was killed: .*train_memory.*; it is kept: .*"
    with pytest.raises(PipelineError, match=f"^TrainJob team/train-run failed: {line}$"):
        train(run, tmp_path / "model", base_model=str(encoder), epochs=1000.0)
