"""`archive_model`: what is exported, that the same model gives the same bytes, and the step in KFP's local runner."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from nlp_pipeline import packages
from nlp_pipeline.components.archive_model import archive_model, build_mar, build_release, pack_model
from nlp_pipeline.components.archive_model_graph import onnx_model
from nlp_pipeline.release import hash_files
from nlp_pipeline.serving.handler import __file__ as handler_file
from tests.serving.conftest import (
    LIMITS,
    MAX_LENGTH,
    archived,
    load_handler,
    made_release,
    run_in_local_runner,
)


def archive_of(release: Path) -> Path:
    return next(release.glob("model-store/*.mar"))


def test_a_release_is_what_the_design_says(model: Path) -> None:
    release = made_release(model, "int8")
    record = json.loads((release / "release.json").read_text())
    assert record["digest"] == release.name
    assert record["files"] == hash_files(release)
    assert set(record["files"]) == {
        "config/config.properties",
        "model-store/tiny.mar",
        *(f"huggingface/{path.name}" for path in model.iterdir()),
    }
    assert (record["model_name"], record["run_id"], record["labels"]) == ("tiny", "run", ["0", "4"])
    assert record["parameters"] == {"precision": "int8", "max_length": MAX_LENGTH, "base_model": "tiny-encoder"}
    assert (record["source"], record["source_sha256"]) == ("train.csv", "ab12")
    assert record["metrics"] == {"accuracy": 1.0}
    assert record["packages"]["torch"].startswith("2.")


def test_the_archive_holds_what_the_handler_needs(model: Path) -> None:
    with zipfile.ZipFile(archive_of(made_release(model, "int8"))) as archive:
        assert archive.testzip() is None
        content = {name: archive.read(name) for name in archive.namelist()}
    assert content["handler.py"].decode() == Path(handler_file).read_text(encoding="utf-8")
    assert content["requirements.txt"].decode().splitlines() == packages.SERVING
    assert content["tokenizer.json"] == (model / "tokenizer.json").read_bytes()
    settings = {"labels": ["0", "4"], "max_length": MAX_LENGTH, "pad_token_id": 0, "precision": "int8"}
    assert json.loads(content["serving.json"]) == settings
    manifest = json.loads(content["MAR-INF/MANIFEST.json"])
    assert manifest["model"]["modelName"] == "tiny"
    assert manifest["model"]["handler"] == "handler.py"
    assert set(content) == {
        "MAR-INF/MANIFEST.json", "handler.py", "model.onnx", "requirements.txt", "serving.json", "tokenizer.json",
    }  # fmt: skip


def test_the_export_is_small_reproducible_and_old_enough(model: Path) -> None:
    import onnx

    models = {}
    for precision in ("int8", "fp32"):
        with zipfile.ZipFile(archive_of(made_release(model, precision))) as archive:
            models[precision] = archive.read("model.onnx")
        graph = onnx.load_from_string(models[precision])
        # ONNX Runtime 1.19, the last for Python 3.9, reads no more.
        assert graph.ir_version <= 10
        assert {one.domain: one.version for one in graph.opset_import}[""] <= 21
        assert b"site-packages" not in models[precision] and b".py" not in models[precision]
    assert len(models["int8"]) < 0.5 * len(models["fp32"])


def test_an_unknown_precision_is_one_line(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^precision is 'fp16': it must be auto, int8 or fp32$"):
        archived(model, tmp_path / "archived", "fp16")


SOURCES = {"handler.py": "class Handler: pass\n", "requirements.txt": "", "max_length": "8"}


@pytest.mark.parametrize("name", ["mar", "packed", "tmp", "handler", "a" * 63])
@pytest.mark.parametrize("folder", ["plain", "a, b [c] *é"])
def test_any_name_and_any_folder_can_be_packed(tmp_path: Path, name: str, folder: str) -> None:
    packing = tmp_path / folder
    packing.mkdir()
    names = ["model.onnx", "handler.py", "requirements.txt", "tokenizer.json", "serving.json"]
    for one in names:
        (packing / one).write_text(one)
    build_mar(str(packing), name, str(tmp_path / f"{name}.mar"))
    with zipfile.ZipFile(tmp_path / f"{name}.mar") as archive:
        assert sorted(archive.namelist()) == sorted([*names, "MAR-INF/MANIFEST.json"])
        assert [archive.read(one).decode() for one in names] == names


def test_a_failing_archiver_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^torch-model-archiver failed: .*model\.onnx.*$") as caught:
        build_mar(str(tmp_path), "tiny", str(tmp_path / "tiny.mar"))
    assert "\n" not in str(caught.value)


def test_labels_of_any_characters_reach_the_answer(model: Path, tmp_path: Path) -> None:
    odd = tmp_path / "model"
    shutil.copytree(model, odd)
    config = json.loads((odd / "config.json").read_text())
    labels = ['"no", he\nsaid', "jä 文 🙂 \u2028 ' \\ {}"]
    config |= {"id2label": dict(enumerate(labels)), "label2id": {label: at for at, label in enumerate(labels)}}
    (odd / "config.json").write_text(json.dumps(config))
    onnx_model(str(odd), str(tmp_path / "fp32.onnx"))
    pack_model(str(odd), str(tmp_path / "fp32.onnx"), str(tmp_path / "packed"), "fp32", SOURCES)
    build_release(str(odd), str(tmp_path / "x" / "release" / "1"), "tiny", str(tmp_path / "packed"), 8)
    handler = load_handler(tmp_path / "x" / "release" / "1")
    assert [one["label"] for one in handler.classify(["awful", "superb"])] == labels


@pytest.mark.slow
def test_in_kfps_local_runner_the_same_model_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    from kfp import dsl

    expected = made_release(model, "int8")
    (tmp_path / "volume").mkdir()
    inputs = expected.parents[3]

    @dsl.pipeline(name="archive")
    def pipeline(model_uri: str, metrics_uri: str, predictions_uri: str, report_uri: str) -> None:
        archive_model(
            model=dsl.importer(artifact_uri=model_uri, artifact_class=dsl.Model).output,
            metrics=dsl.importer(artifact_uri=metrics_uri, artifact_class=dsl.Metrics).output,
            train=dsl.importer(artifact_uri=metrics_uri, artifact_class=dsl.Dataset).output,
            predictions=dsl.importer(artifact_uri=predictions_uri, artifact_class=dsl.Dataset).output,
            evaluation_report=dsl.importer(artifact_uri=report_uri, artifact_class=dsl.HTML).output,
            precision="int8",
            **LIMITS,
            handler=Path(handler_file).read_text(encoding="utf-8"),
            requirements="\n".join(packages.SERVING),
            volume_path=str(tmp_path / "volume"),
            model_name="tiny",
            run_id="another-run",
        )

    run_in_local_runner(
        pipeline,
        {
            "model_uri": str(model),
            "metrics_uri": str(inputs / "metrics.json"),
            "predictions_uri": str(inputs / "predictions.parquet"),
            "report_uri": str(inputs / "evaluation.html"),
        },
        tmp_path,
    )
    [release] = (tmp_path / "volume" / "tiny" / "releases").iterdir()
    assert archive_of(release).read_bytes() == archive_of(expected).read_bytes()
    assert release.name == expected.name
    assert json.loads((release / "release.json").read_text())["run_id"] == "another-run"
