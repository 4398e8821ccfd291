"""A new model beside the one that serves: which that is, what the two are asked, and what the gate makes of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import kubernetes.config
import pyarrow.parquet
import pytest

from nlp_pipeline.deploy import cluster as calls
from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import Release, seal
from nlp_pipeline.steps.evaluate_model import comparison
from nlp_pipeline.steps.evaluate_model.gate import passes_gate
from nlp_pipeline.steps.evaluate_model.settings import ComparisonLimits, GateSettings
from nlp_pipeline.volume import Run
from tests.conftest import make_rows
from tests.fakes.kubernetes.emulator import emulated_cluster
from tests.steps.evaluate_model.test_evaluation import evaluate_rows

Json = dict[str, Any]
ROWS = make_rows(60, seed=5)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 1000)


def publish(volume: Path, model: Path, labels: list[str] | None = None, is_latest: bool = True) -> str:
    """Publishes a model as a release of "tiny"; returns its digest."""
    folder = volume / "tiny" / "releases" / "new"
    shutil.copytree(model, folder / "huggingface")
    sealed = seal(folder, Release(model_name="tiny", labels=labels or ["0", "4"], parameters={"max_length": 32}))
    folder.rename(folder.with_name(sealed.digest))
    if is_latest:
        (volume / "tiny" / "latest.json").write_text(json.dumps({"digest": sealed.digest}))
    return sealed.digest


def variant(model: Path, folder: Path, rename: dict[str, str] | None = None, spoil: bool = False) -> Path:
    """Returns a copy of a model with other names for labels, or one that always gives the same answer."""
    import transformers

    copy = Path(shutil.copytree(model, folder))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    if spoil:
        network.classifier.weight.data.zero_()
    names = {number: (rename or {}).get(label, label) for number, label in network.config.id2label.items()}
    network.config.id2label, network.config.label2id = names, {label: number for number, label in names.items()}
    network.save_pretrained(copy)
    return copy


def run_step(model: Path, folder: Path, rows: Any = ROWS, volume: bool = True, **settings: str) -> tuple[Json, Json]:
    """Evaluates a model; returns its metrics, and the columns of its predictions."""
    evaluate_rows(model, folder, rows, volume, **settings)
    predictions: Json = pyarrow.parquet.read_table(folder / "predictions").to_pydict()
    return json.loads((folder / "metrics").read_text()), predictions


def gate(folder: Path, capsys: pytest.CaptureFixture[str], **limits: Any) -> str:
    """Returns what the gate says of the model that was evaluated."""
    capsys.readouterr()
    passes = passes_gate(folder / "metrics", Run(run_id="-"), GateSettings(), ComparisonLimits(**limits))
    said = capsys.readouterr().out
    assert said.startswith("passed: " if passes else "not passed: ")
    return said


def test_without_a_former_release_the_floor_decides(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, predictions = run_step(model, tmp_path)
    said = capsys.readouterr().out
    assert "champion: there is no former release; none is known to be live: this is no pod of a cluster\n" in said
    assert metrics["champion"] == {} and set(predictions["champion"]) == {None}
    assert gate(tmp_path, capsys, require="better").startswith("passed: accuracy 1.0000")
    run_step(model, tmp_path, champion="none")
    assert "champion: champion=none\n" in capsys.readouterr().out
    run_step(model, tmp_path, volume=False)
    assert "champion: there is no volume, and so no former release\n" in capsys.readouterr().out


def test_the_same_model_is_not_worse_and_not_better(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = publish(tmp_path, model)
    metrics, predictions = run_step(model, tmp_path)
    assert f"champion: release {digest}, validated last; none is known to be live" in capsys.readouterr().out
    champion = metrics["champion"]
    assert (champion["digest"], champion["rows"], champion["seen"], champion["problem"]) == (digest, 60, 0, "")
    assert champion["figures"]["accuracy"]["difference"] == [0, 0, 0]
    assert champion["data"] == {"labels": 0, "lengths": 0, "moved": []}
    assert predictions["champion"] == predictions["predicted"]
    assert "; as good as the champion, release " in gate(tmp_path, capsys)
    assert gate(tmp_path, capsys, require="better").startswith("not passed: as good as the champion")


@pytest.mark.parametrize("metric", ["macro_f1", "log_loss", "recall:4"])
def test_a_worse_model_is_refused_and_a_better_passes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str
) -> None:
    constant = variant(model, tmp_path / "constant", spoil=True)
    digest = publish(tmp_path, model)
    metrics, predictions = run_step(constant, tmp_path, metric=metric)
    # The constant model's accuracy is the share of one class.
    metrics["accuracy"] = 0.9
    (tmp_path / "metrics").write_text(json.dumps(metrics))
    always = set(predictions["predicted"])
    if metric == "recall:4" and always == {"4"}:
        assert "as good as the champion" in gate(tmp_path, capsys)
    else:
        said = gate(tmp_path, capsys)
        name = metric.partition(":")[0]
        assert said.startswith(f"not passed: worse than the champion, release {digest}: {name} -")
        assert said.endswith("on 60 rows; require is not_worse\n")
        assert gate(tmp_path, capsys, require="floor").startswith("passed")
    shutil.rmtree(tmp_path / "tiny")
    publish(tmp_path, constant)
    run_step(model, tmp_path, metric="accuracy")
    assert "; better by 0.2 than the champion" in gate(tmp_path, capsys, require="better", min_gain=0.2)
    assert gate(tmp_path, capsys, require="better", min_gain=0.9).startswith("not passed: not better by 0.9 than")
    page = (tmp_path / "report").read_text()
    assert "Rows that the model has right, and the release wrong: 30" in page


def test_rows_that_the_champion_was_trained_on_are_left_out(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, model)
    trained = make_rows(400)[:40]
    metrics, predictions = run_step(model, tmp_path, [*ROWS, *((f" {text}\n", label) for text, label in trained)])
    assert (metrics["champion"]["rows"], metrics["champion"]["seen"]) == (60, 40)
    assert [answer is None for answer in predictions["champion"]] == [False] * 60 + [True] * 40
    metrics, _ = run_step(model, tmp_path, trained)
    assert metrics["champion"]["problem"].startswith("it was trained on all of the evaluation rows")
    assert gate(tmp_path, capsys).startswith("not passed: no comparison with the champion, release ")


def test_labels_that_are_new_or_gone(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, variant(model, tmp_path / "former", rename={"4": "5"}), ["0", "5"])
    metrics, predictions = run_step(model, tmp_path)
    champion = metrics["champion"]
    assert (champion["new"], champion["gone"], champion["rows"], champion["unknown"]) == (["4"], ["5"], 30, 30)
    assert set(predictions["champion"]) == {"0", None}
    assert gate(tmp_path, capsys).startswith("not passed: the model does not know ['5'], which the champion, release ")
    assert gate(tmp_path, capsys, require="floor").startswith("passed")


def test_what_can_not_be_compared(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = publish(tmp_path, model)
    metrics, _ = run_step(model, tmp_path, metric="recall:7")
    assert metrics["champion"]["problem"] == "there is no row of '7' to compare"
    with pytest.raises(UsageError, match="there is no release 0123456789abcdef in"):
        run_step(model, tmp_path, champion="0123456789abcdef")
    (tmp_path / "tiny" / "releases" / digest / "huggingface" / "config.json").write_text("{}")
    metrics, predictions = run_step(model, tmp_path, champion=digest)
    assert "config.json is missing, altered" in metrics["champion"]["problem"]
    assert set(predictions["champion"]) == {None}
    assert "no comparison with the champion" in gate(tmp_path, capsys)


def test_what_is_live_is_asked_of_the_cluster(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = publish(tmp_path, model, is_latest=False)
    (tmp_path / "namespace").write_text("team")
    monkeypatch.setattr(calls, "POD_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("NO_PROXY", "*")
    with emulated_cluster("Standard") as cluster:
        cluster.write_kubeconfig(tmp_path / "kubeconfig", "team")
        load = kubernetes.config.load_kube_config
        monkeypatch.setattr(kubernetes.config, "load_incluster_config", lambda: load(str(tmp_path / "kubeconfig")))
        run_step(model, tmp_path)
        said = capsys.readouterr().out
        assert "champion: there is no former release; none is known to be live: there is no InferenceService" in said
        labels = {"nlp-pipeline/release": digest}
        spec = {"predictor": {"model": {"modelFormat": {"name": "pytorch"}}}}
        cluster.add({"kind": "InferenceService", "metadata": {"name": "tiny", "labels": labels}, "spec": spec})
        run_step(model, tmp_path)
        assert f"champion: release {digest}, which is live\n" in capsys.readouterr().out
        (tmp_path / "tiny" / "releases" / digest).rename(tmp_path / "gone")
        run_step(model, tmp_path)
        assert f"the live release, {digest}, is not on the volume\n" in capsys.readouterr().out
