"""The step as a whole: what it writes, what it says, and how it resumes."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from kfp import dsl

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.pipeline.components import train_model
from nlp_pipeline.steps.train_model.base_model import load_base_model
from nlp_pipeline.steps.train_model.device import Device
from nlp_pipeline.steps.train_model.fine_tune import fine_tune
from nlp_pipeline.steps.train_model.rows import tokenise, training_order
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.steps.train_model.trainer import train
from nlp_pipeline.volume import VARIABLE, Run
from tests.conftest import TRAINING, make_rows, without_a_trial, write_parquet

pytestmark = pytest.mark.slow


def run_step(folder: Path, seed: int = 1, **settings: Any) -> dict[str, Any]:
    """Runs the step on a folder's train.parquet; returns what its file of facts holds."""
    run = Run(model_name="tiny", run_id="run", volume_path=str(folder))
    chosen = TrainSettings(**{**TRAINING, **settings})
    fine_tune(folder / "train.parquet", folder / "model", chosen, seed, run)
    written: dict[str, Any] = json.loads((folder / "model" / "training.json").read_text())
    return written


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """Spares all tests but one the export before the training."""
    with contextlib.nullcontext() if "component" in request.node.name else without_a_trial():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "train.parquet", make_rows(120, classes=5))
    return tmp_path


def test_the_component_saves_a_model_with_its_labels_and_few_figures(
    folder: Path, encoder: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(folder))
    rows = [(f"{text} {at}", ["10", "9", "1"][at % 3]) for at, (text, _) in enumerate(make_rows(96))]
    source = {"source": "rows.csv", "source_sha256": "ab12"}
    artifacts: dict[str, Any] = {
        "train": dsl.Dataset(uri=str(write_parquet(folder / "train.parquet", rows)), metadata={**source, "rows": 96}),
        "model": dsl.Model(uri=str(folder / "model")),
        "training": dsl.Metrics(uri=str(folder / "training")),
    }
    settings = vars(TrainSettings(**{**TRAINING, "base_model": str(encoder), "epochs": 1.0}))
    own = {"model_name": "tiny", "run_id": "run", "seed": 1, "train_nodes": 1, "train_runtime": ""}
    train_model.python_func(**settings, **own, **artifacts)

    names = {path.name for path in (folder / "model").iterdir()}
    assert "model.safetensors" in names and "tokenizer.json" in names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pkl"))}
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "1", "1": "9", "2": "10"}
    assert config["label2id"] == {"1": 0, "9": 1, "10": 2}
    assert "eager" not in json.dumps(config)
    # Without a length given, as other servers ask it, the tokenizer cuts where the training did, and may train longer.
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    assert (tokenizer.model_max_length, len(tokenizer("a " * 100, truncation=True)["input_ids"])) == (32, 32)
    load_base_model(str(folder / "model"), ["0", "1"], 64)

    facts = json.loads((folder / "model" / "training.json").read_text())
    figures = {key: value for key, value in facts.items() if key not in ("loss_curve", *source)}
    assert (figures["rows"], figures["steps"], figures["resumed_from_step"]) == (96, 6, 0)
    assert figures["device"] in ("cpu", "cuda") and figures["dtype"] in ("bfloat16", "float32") and figures["reason"]
    assert facts["loss_curve"][-1][0] == 6 and figures["samples_per_second"] > 0 and figures["train_loss"] > 0
    assert artifacts["training"].metadata == figures
    assert artifacts["model"].metadata == {"base_model": str(encoder), "max_length": 32}

    # A person finds it on the volume; checkpoints are gone. The log holds what a person wants to read.
    kept = folder / "tiny" / "runs" / "run"
    assert (kept / "model" / "model.safetensors").read_bytes() == (folder / "model" / "model.safetensors").read_bytes()
    assert json.loads((kept / "training.json").read_text()) == facts
    assert list((folder / "tiny" / "checkpoints").iterdir()) == []
    printed, errors = capfd.readouterr()
    assert {line.split()[0] for line in printed.splitlines()} == {
        "training",
        "the",
        "step",
        "checkpoint",
    } and errors == ""


def test_caps_hold_and_the_same_seed_gives_the_same_weights(folder: Path, encoder: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        result = run_step(folder, seed, base_model=str(encoder), max_steps=3)
        assert (result["rows"], result["steps"]) == (120, 3)
        weights.append((folder / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    result = run_step(folder, base_model=str(encoder), max_train_rows=32, epochs=2.0)
    assert (result["rows"], result["steps"]) == (32, 4)


def test_a_step_that_failed_after_its_last_checkpoint_has_nothing_left_to_train(folder: Path, encoder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "training.json").mkdir()  # where a file should be
    with pytest.raises(IsADirectoryError):
        run_step(folder, base_model=str(encoder))
    (folder / "model" / "training.json").rmdir()
    result = run_step(folder, base_model=str(encoder))
    assert result["resumed_from_step"] == result["steps"] == 23
    assert result["loss_curve"][-1][0] == 23


def test_a_training_that_diverges_says_so(folder: Path, encoder: Path) -> None:
    weights = safetensors.torch.load_file(encoder / "model.safetensors")
    shutil.copytree(encoder, folder / "huge")
    huge = {name: tensor * 1e38 for name, tensor in weights.items()}
    safetensors.torch.save_file(huge, folder / "huge" / "model.safetensors", {"format": "pt"})
    with pytest.raises(PipelineError, match=r"the loss at step 1 is nan: try a learning_rate below 0\.0"):
        run_step(folder, base_model=str(folder / "huge"))


def test_a_resumed_training_takes_the_next_rows_and_ends_as_an_unbroken_one(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [str(number) for number in range(5)]
    write_parquet(tmp_path / "train.parquet", make_rows(50, classes=5))
    settings = TrainSettings(**{**TRAINING, "batch_size": 8})
    device = Device("cpu", "float32", "")
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr("time.monotonic", iter(range(0, 1_000_000, 100)).__next__)  # long enough for checkpoints
    batches: list[list[tuple[int, ...]]] = []

    def take_down(_: Any, __: Any, batch: Any) -> None:
        texts = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        batches.append([tuple(ids[mask == 1].tolist()) for ids, mask in texts])

    def run() -> tuple[dict[str, Any], Any, int]:
        torch.manual_seed(1)
        model, tokenizer = load_base_model(str(encoder), labels, 32)
        rows = tokenise(tmp_path / "train.parquet", tokenizer, labels, settings, 1, str(tmp_path))
        batches.clear()
        model.register_forward_pre_hook(take_down, with_kwargs=True)
        result = train(model, tokenizer, rows, settings, 1, device, tmp_path / "checkpoints")
        return {**model.state_dict()}, rows, result["resumed_from_step"]

    weights, rows, resumed = run()
    order = training_order(rows.data["length"].to_numpy(), 3.0, 8, seed=1)
    in_order = [tuple(rows[row]["input_ids"]) for row in order.tolist()]
    expected = [in_order[at : at + 4] for at in range(0, len(in_order), 4)]  # the halves of batches
    assert (resumed, len(expected), len(expected[-1])) == (0, 38, 2)
    assert batches == expected

    (tmp_path / "checkpoints" / "checkpoint-19" / "complete").unlink()
    resumed_weights, _, resumed = run()
    assert 0 < resumed < 19
    assert batches == expected[2 * resumed :]
    assert all(torch.equal(tensor, resumed_weights[name]) for name, tensor in weights.items())


def test_a_batch_in_halves_teaches_what_the_whole_batch_does(encoder: Path, tmp_path: Path) -> None:
    labels = [str(number) for number in range(5)]
    write_parquet(tmp_path / "train.parquet", make_rows(54, classes=5))  # the last batch has 6 rows
    settings = TrainSettings(**{**TRAINING, "batch_size": 8, "epochs": 1.0})
    results: list[torch.Tensor] = []
    sizes: list[list[int]] = []
    for kind in ("cpu", "cuda"):  # which trains on the CPU where there is no GPU
        torch.manual_seed(1)
        model, tokenizer = load_base_model(str(encoder), labels, 32)
        model.apply(lambda layer: setattr(layer, "p", 0.0) if isinstance(layer, torch.nn.Dropout) else None)
        rows = tokenise(tmp_path / "train.parquet", tokenizer, labels, settings, 1, str(tmp_path))
        sizes.append([])
        model.register_forward_pre_hook(
            lambda _, __, batch, seen=sizes[-1]: seen.append(len(batch["input_ids"])), with_kwargs=True
        )
        checkpoints = tmp_path / kind
        checkpoints.mkdir()
        facts = train(model, tokenizer, rows, settings, 1, Device(kind, "float32", ""), checkpoints)
        results.append(torch.tensor([loss for _, loss in facts["loss_curve"]]))
    assert sizes == [[4] * 13 + [2], [8] * 6 + [6]]
    torch.testing.assert_close(results[0], results[1].cpu(), rtol=1e-3, atol=1e-3)
