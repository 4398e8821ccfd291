import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from nlp_pipeline.components import train_model as step
from tests.conftest import TRAINING, make_rows, write_parquet

SCRIPT = """
import json, sys
from kfp import dsl
from nlp_pipeline.components.train_model import train_model
folder, settings = sys.argv[1], json.loads(sys.argv[2])
train_model(
    train=dsl.Dataset(uri=folder + "/train.parquet"), model=dsl.Model(uri=folder + "/model"),
    training=dsl.Metrics(uri=folder + "/training"), volume_path=folder, model_name="tiny", **settings)
"""


def train(folder: Path, **settings: Any) -> dict[str, Any]:
    """Runs the step as a function; returns what its metrics file holds."""
    training = dsl.Metrics(uri=str(folder / "training"))
    step.train_model(
        train=dsl.Dataset(uri=str(folder / "train.parquet")),
        model=dsl.Model(uri=str(folder / "model")),
        training=training,
        volume_path=str(folder),
        model_name="tiny",
        **{**TRAINING, "run_id": "run", **settings},
    )
    written: dict[str, Any] = json.loads((folder / "training").read_text())
    assert {key: value for key, value in written.items() if key != "loss_curve"} == training.metadata
    return written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "train.parquet", make_rows(120, classes=5))
    return tmp_path


@pytest.mark.slow
def test_trains_and_saves_safetensors_with_the_labels_in_order(folder: Path, encoder: Path) -> None:
    write_parquet(folder / "train.parquet", [(f"{text} {at}", ["10", "9", "1"][at % 3]) for at, (text, _) in
                                             enumerate(make_rows(96))])  # fmt: skip
    result = train(folder, base_model=str(encoder), epochs=1.0)

    names = {path.name for path in (folder / "model").iterdir()}
    assert "model.safetensors" in names and "tokenizer.json" in names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pkl"))}
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "1", "1": "9", "2": "10"}
    assert config["label2id"] == {"1": 0, "9": 1, "10": 2}
    assert result["steps"] == 6 and result["resumed_from_step"] == 0
    assert result["device"] in ("cpu", "cuda") and result["dtype"] in ("bfloat16", "float32") and result["reason"]
    assert result["loss_curve"][-1][0] == 6 and result["samples_per_second"] > 0
    # A person finds it on the volume; checkpoints are gone.
    run = folder / "tiny" / "runs" / "run"
    assert (run / "model" / "model.safetensors").read_bytes() == (folder / "model" / "model.safetensors").read_bytes()
    assert json.loads((run / "training.json").read_text()) == result
    assert list((folder / "tiny" / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(folder: Path, encoder: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        train(folder, base_model=str(encoder), max_steps=3, seed=seed)
        weights.append((folder / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.slow
def test_caps_on_rows_and_steps(folder: Path, encoder: Path) -> None:
    result = train(folder, base_model=str(encoder), max_train_rows=32, epochs=2.0)
    assert (result["rows"], result["steps"]) == (32, 4)
    result = train(folder, base_model=str(encoder), max_steps=3)
    assert (result["rows"], result["steps"]) == (120, 3)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the step ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_step_goes_on_from_its_checkpoint(folder: Path, encoder: Path, capfd: Any) -> None:
    settings = {**TRAINING, "base_model": str(encoder), "epochs": 20.0, "run_id": "first"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), json.dumps(settings)])
    try:
        wait_for(lambda: any((folder / "tiny" / "checkpoints").glob("*/checkpoint-*/complete")), process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "model").exists()

    # What the kill may have left: a checkpoint that is newer, but not whole.
    (checkpoints,) = (folder / "tiny" / "checkpoints").iterdir()
    (checkpoints / "checkpoint-149").mkdir()

    result = train(folder, **{**settings, "run_id": "second"})
    assert result["steps"] == 150
    assert result["resumed_from_step"] in range(15, 150, 15)
    assert f"going on from the checkpoint of step {result['resumed_from_step']} of 150" in capfd.readouterr().out
    steps = [at for at, _ in result["loss_curve"]]
    assert steps == sorted(set(steps)) and steps[0] == 3 and steps[-1] == 150
    assert list((folder / "tiny" / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_a_step_killed_after_its_last_checkpoint_has_nothing_left_to_train(
    folder: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: str, folder: str, name: str) -> str:
        raise OSError("the volume is gone")

    with monkeypatch.context() as patch:
        patch.setattr(step, "put_on_volume", fail)
        with pytest.raises(OSError, match="the volume is gone"):
            train(folder, base_model=str(encoder))
    result = train(folder, base_model=str(encoder))
    assert result["resumed_from_step"] == result["steps"] == 23
    assert result["loss_curve"][-1][0] == 23


@pytest.mark.slow
def test_a_training_that_diverges_says_so(folder: Path, encoder: Path) -> None:
    import safetensors.torch

    weights = safetensors.torch.load_file(encoder / "model.safetensors")
    shutil.copytree(encoder, folder / "huge")
    huge = {name: tensor * 1e38 for name, tensor in weights.items()}
    safetensors.torch.save_file(huge, folder / "huge" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="has diverged: the loss at step 1 is nan; try a lower learning_rate"):
        train(folder, base_model=str(folder / "huge"))


def test_other_inputs_have_other_checkpoints_and_a_busy_folder_is_left_alone(tmp_path: Path) -> None:
    inputs = {"rows": "abc", "epochs": 1.0}
    first, lock = step.checkpoint_folder(str(tmp_path), "m", "run1", inputs)
    busy, other_lock = step.checkpoint_folder(str(tmp_path), "m", "run2", inputs)
    assert busy == f"{first}-run2"
    other_lock.close()
    lock.close()
    again, lock = step.checkpoint_folder(str(tmp_path), "m", "run3", inputs)
    assert again == first
    lock.close()
    other, lock = step.checkpoint_folder(str(tmp_path), "m", "run4", {**inputs, "epochs": 2.0})
    assert other != first
    lock.close()


def test_without_a_volume_checkpoints_are_a_runs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = [step.checkpoint_folder("", "m", run, {"epochs": 1.0}) for run in ("run1", "run2")]
    assert found[0][0] != found[1][0] and all(Path(folder).is_relative_to(tmp_path) for folder, _ in found)
    for _, lock in found:
        lock.close()


def test_the_last_whole_checkpoint_is_by_number_not_by_name(tmp_path: Path) -> None:
    assert step.last_checkpoint(str(tmp_path)) is None
    for number in (9, 10, 100):
        (tmp_path / f"checkpoint-{number}").mkdir()
        if number != 100:
            (tmp_path / f"checkpoint-{number}" / "complete").touch()
    assert step.last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0: it must be 1 or more"),
        ({"epochs": 0.0}, "epochs is 0.0: it must be above 0"),
        ({"learning_rate": 2.0}, "learning_rate is 2.0: it must be between 0 and 1"),
        ({"max_steps": -1}, "max_steps is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"max_length": 65}, "max_length is 65: .* reads from 1 to 64 tokens"),
        ({"max_length": 0}, "max_length is 0"),
        ({"base_model": "./nowhere"}, r"'./nowhere' is not a folder here: give a folder or a hub id"),
        ({"base_model": "some/model"}, "without the hub, pass a folder that holds config.json, model.safetensors"),
    ],
)
def test_wrong_parameters_are_named(folder: Path, encoder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        train(folder, **{"base_model": str(encoder), **settings})
    assert "\n" not in str(raised.value)


def test_a_folder_without_safetensors_is_refused(folder: Path, encoder: Path, tmp_path: Path) -> None:
    import torch

    shutil.copytree(encoder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="can't be loaded"):
        train(folder, base_model=str(tmp_path / "pickled"))


def test_a_folder_without_a_tokenizer_is_refused(folder: Path, encoder: Path) -> None:
    """Transformers makes one up, for which every word is unknown."""
    (folder / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(encoder / name, folder / "bare")
    with pytest.raises(ValueError, match="bare' has no tokenizer: put its tokenizer"):
        train(folder, base_model=str(folder / "bare"))


@pytest.mark.slow
def test_an_unreachable_hub_says_how_to_pass_a_folder(folder: Path, tmp_path: Path) -> None:
    settings = {**TRAINING, "base_model": "some/model", "run_id": "run"}
    # A port of localhost that refuses: the hub's client tries again for a while before it gives up.
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(settings)],
        env=environment,
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ValueError: base_model 'some/model' can't be loaded")
    assert "pass a folder" in last


@pytest.mark.slow
def test_a_training_that_goes_on_ends_as_one_that_was_not_broken_off(folder: Path, encoder: Path) -> None:
    import torch

    labels = [str(number) for number in range(5)]
    options = {**TRAINING, "epochs": 20.0, **step.choose_device()}
    limits = {"max_length": 32, "max_train_rows": 0, "seed": 1}
    (folder / "checkpoints").mkdir()
    weights, resumed = [], []
    for _ in range(2):
        torch.manual_seed(1)
        model, tokenizer = step.load_base_model(str(encoder), labels, 32)
        rows = step.tokenise(str(folder / "train.parquet"), tokenizer, labels, limits, str(folder))
        result = step.run_trainer(model, tokenizer, rows, str(folder / "checkpoints"), options)
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        resumed.append(result["resumed_from_step"])
        shutil.rmtree(folder / "checkpoints" / "checkpoint-150")
    assert resumed[0] == 0 and 0 < resumed[1] < 150
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_dropout_and_number_format_of_what_is_trained(encoder: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    transformers.AutoModel.from_pretrained(encoder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    model, _ = step.load_base_model(str(tmp_path), ["0", "1"], 32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.attention_probs_dropout_prob == 0 and model.config.hidden_dropout_prob == 0.1


@pytest.mark.parametrize(
    ("gpu", "bf16", "features", "device", "dtype", "reason"),
    [
        (True, True, [], "cuda", "bfloat16", "a GPU computes in bfloat16"),
        (True, False, ["amx_bf16"], "cuda", "float32", "a GPU has no bfloat16"),
        (False, False, ["amx_bf16"], "cpu", "bfloat16", "no GPU; the CPU has amx_bf16"),
        (False, False, ["avx512_bf16"], "cpu", "bfloat16", "no GPU; the CPU has avx512_bf16"),
        (False, False, [], "cpu", "float32", "no GPU; the CPU has neither"),
    ],
)
def test_the_device_is_chosen_with_its_reason(
    gpu: bool,
    bf16: bool,
    features: list[str],
    device: str,
    dtype: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True))
    chosen = step.choose_device()
    assert (chosen["device"], chosen["dtype"]) == (device, dtype) and chosen["reason"].startswith(reason)
