"""What a release holds, that the same model gives the same bytes, and the step as it runs in a pod."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from nlp_pipeline.pipeline.embedding import FILES
from nlp_pipeline.release import CARD, verify
from nlp_pipeline.serving import handler
from nlp_pipeline.serving import model as model_module
from nlp_pipeline.serving.handler import TextClassificationHandler
from nlp_pipeline.serving.model import TEXTS
from nlp_pipeline.steps.archive_model.packing import HANDLER_REQUIREMENTS, build_mar, pack_model, server_config
from nlp_pipeline.steps.archive_model.settings import ArchiveSettings
from nlp_pipeline.volume import VARIABLE
from tests.serving.conftest import MAX_LENGTH, exported, made_release, make_context
from tests.steps.programs import run_step

PACKED = ["archived_model.py", "handler.py", "model.onnx", "requirements.txt", "serving.json", "tokenizer.json"]


def read_archive(release: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(next(release.glob("model-store/*.mar"))) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_release_is_what_the_design_says(model: Path) -> None:
    folder = made_release(model, "int8")
    release = verify(folder)
    assert release.digest == folder.name
    assert set(release.files) == {
        "config/config.properties",
        "model-store/tiny.mar",
        CARD,
        *(
            f"huggingface/{path.name}"
            for path in model.iterdir()
            if path.name not in ("training.json", "texts.parquet")
        ),
    }
    assert (release.model_name, release.run_id, release.labels) == ("tiny", "run", ["0", "4"])
    parameters = {"precision": "int8", "max_length": MAX_LENGTH, "steps": 75}
    assert release.parameters.items() >= parameters.items() and "loss_curve" not in release.parameters
    assert (release.source, release.source_sha256) == ("train.csv", "ab12")
    assert release.metrics == {"accuracy": 1.0}
    assert release.packages["torch"].startswith("2.")


def test_the_archive_holds_what_the_handler_needs(model: Path) -> None:
    content = read_archive(made_release(model, "int8"))
    assert sorted(content) == ["MAR-INF/MANIFEST.json", *PACKED]
    sources = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (handler, model_module)]
    # What the archive holds imports nothing of a package that may be installed in another version.
    assert content["handler.py"].decode() == sources[0].replace("nlp_pipeline.serving.model", "archived_model")
    assert content["archived_model.py"].decode() == sources[1]
    assert b"nlp_pipeline" not in content["handler.py"] + content["archived_model.py"]
    assert content["requirements.txt"].decode().splitlines() == HANDLER_REQUIREMENTS
    assert content["tokenizer.json"] == (model / "tokenizer.json").read_bytes()
    settings = {"labels": ["0", "4"], "max_length": MAX_LENGTH, "pad_token_id": 0, "precision": "int8"}
    assert json.loads(content["serving.json"]) == settings
    assert json.loads(content["MAR-INF/MANIFEST.json"])["model"] == {
        "modelName": "tiny",
        "modelVersion": "1.0",
        "handler": "handler.py",
        "serializedFile": "model.onnx",
        "requirementsFile": "requirements.txt",
    }


def test_the_servers_settings() -> None:
    keys = dict(line.split("=", 1) for line in server_config("tiny", 8).splitlines())
    # What KServe's wrapper reads.
    assert keys["inference_address"] == keys["management_address"] == "http://0.0.0.0:8085"
    assert (keys["grpc_inference_port"], keys["model_store"]) == ("7070", "/mnt/models/model-store")
    assert keys["disable_token_authorization"] == keys["install_py_dep_per_model"] == "true"
    assert (keys["job_queue_size"], keys["enable_envvars_config"]) == ("1000", "false")
    # A full request is answered whatever its labels: each may take 200 emoji, of 12 characters in JSON.
    assert int(keys["max_response_size"]) > TEXTS * 200 * 12
    snapshot = json.loads(keys["model_snapshot"])["models"]["tiny"]["1.0"]
    assert (snapshot["marName"], snapshot["batchSize"], snapshot["maxBatchDelay"]) == ("tiny.mar", 8, 1)
    assert snapshot["minWorkers"] == snapshot["maxWorkers"] == 2


@pytest.mark.parametrize("name", ["handler", "a" * 63])
def test_any_name_and_any_folder_can_be_packed(tmp_path: Path, name: str) -> None:
    packed = tmp_path / "a, b [c] *é"
    packed.mkdir()
    for part in PACKED:
        (packed / part).write_text(part)
    (tmp_path / "model-store").mkdir()
    build_mar(packed, name, tmp_path / "model-store" / f"{name}.mar")
    content = read_archive(tmp_path)
    assert json.loads(content.pop("MAR-INF/MANIFEST.json"))["model"]["modelName"] == name
    assert content == {part: part.encode() for part in PACKED}


def test_labels_of_any_characters_reach_the_answer(model: Path, tmp_path: Path) -> None:
    odd = tmp_path / "model"
    shutil.copytree(model, odd)
    config = json.loads((odd / "config.json").read_text())
    labels = ['"no", he\nsaid', "jä 文 🙂 \u2028 ' \\ {}"]
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: at for at, label in enumerate(labels)}}
    (odd / "config.json").write_text(json.dumps(config))
    (tmp_path / "fp32.onnx").write_bytes(exported(model))
    pack_model(odd, tmp_path / "fp32.onnx", tmp_path / "packed", "fp32", max_length=8)
    handler = TextClassificationHandler()
    handler.initialize(make_context(1, tmp_path / "packed"))
    assert [answer["label"] for answer in handler.classify(["awful", "superb"])] == labels


@pytest.mark.slow
def test_in_a_pod_the_same_model_gives_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "volume"))
    expected = made_release(model, "int8")
    inputs = expected.parents[3]
    (tmp_path / "volume").mkdir()
    log, made = run_step(
        "archive_model",
        tmp_path,
        {
            **vars(ArchiveSettings(precision="int8")),
            **{"max_length": MAX_LENGTH, "min_agreement": 0.97, "serving_gpus": 0},
            **{"model_name": "tiny", "run_id": "another-run"},
        },
        {"model": (model, {}), "predictions": (inputs / "predictions.parquet", {})},
        ["release", "report"],
    )
    [release] = (tmp_path / "volume" / "tiny" / "releases").iterdir()
    found, before = verify(release), verify(expected)
    assert made["release"]["release"] == str(release) and found.run_id == "another-run"
    assert f"release {release}, archive of " in log and "int8: precision=int8 was asked for" in log
    # The handler that travels has lost its comments and types, and the card names the run; all else is the same, to
    # the byte.
    other = {"model-store/tiny.mar": "", CARD: ""}
    assert found.files | other == before.files | other
    renamed = ("nlp_pipeline.serving.model", "archived_model")
    assert read_archive(release) == read_archive(expected) | {
        name: FILES["archive_model"][f"nlp_pipeline/serving/{source}"].replace(*renamed).encode()
        for name, source in (("handler.py", "handler.py"), ("archived_model.py", "model.py"))
    }
