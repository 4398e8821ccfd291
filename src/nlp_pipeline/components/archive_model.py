"""`archive_model`: from a trained model to a release, immutable and named by its content."""

from typing import Any

from kfp import dsl

from nlp_pipeline.components.agreement import spread_rows
from nlp_pipeline.components.archive_model_graph import onnx_model, quantise_onnx
from nlp_pipeline.components.archive_model_precision import candidates, choose_precision, try_archive
from nlp_pipeline.components.ranges import check_parameters
from nlp_pipeline.components.volume import model_folder, put_on_volume, run_folder
from nlp_pipeline.release import Release, publish, seal
from nlp_pipeline.steps.archive_model.report_section import add_to_report, precision_section


def build_mar(folder: str, model_name: str, target: str) -> None:
    """Builds a `.mar` with torch-model-archiver; the same files give the same bytes.

    Args:
        folder: A folder with what goes in: model.onnx, handler.py, requirements.txt, tokenizer.json, serving.json.
        model_name: The model's name in TorchServe.
        target: The archive to write.

    Raises:
        RuntimeError: torch-model-archiver failed.
    """
    import json
    import os
    import subprocess
    import sys
    import zipfile

    # The archiver works in, and first empties, <temporary folder>/<model name>: give it a temporary folder of its own.
    temporary, packed = os.path.join(folder, "tmp"), os.path.join(folder, "packed")
    for place in (temporary, packed):
        os.makedirs(place)
    # Names, not paths: it takes a path apart at commas and reads wildcards in it.
    command = ["--model-name", model_name, "--version", "1.0", "--archive-format", "no-archive"]
    command += ["--serialized-file", "model.onnx", "--handler", "handler.py", "--requirements-file", "requirements.txt"]
    command += ["--extra-files", "tokenizer.json,serving.json", "--export-path", "packed"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "model_archiver.model_packaging", *command],
        cwd=folder,
        env={**os.environ, "TMPDIR": temporary},
        capture_output=True,
        text=True,
    )
    unpacked = os.path.join(packed, model_name)
    if done.returncode != 0 or not os.path.isdir(unpacked):
        said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        raise RuntimeError(f"torch-model-archiver failed: {said}")
    manifest = os.path.join(unpacked, "MAR-INF", "MANIFEST.json")
    with open(manifest, encoding="utf-8") as file:
        content = json.load(file)
    content.pop("createdOn", None)
    with open(manifest, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, sort_keys=True)
    names = sorted(
        os.path.relpath(os.path.join(place, name), unpacked) for place, _, found in os.walk(unpacked) for name in found
    )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            # ZipInfo's own date is fixed; ZipFile.write would take the file's.
            with open(os.path.join(unpacked, name), "rb") as file:
                archive.writestr(zipfile.ZipInfo(name), file.read(), zipfile.ZIP_DEFLATED)


def torchserve_config(model_name: str, batch_size: int) -> str:
    """Returns the `config.properties` that KServe's TorchServe runtime reads from the release.

    KServe's wrapper in the runtime's image reads inference_address and management_address (it listens on 8080 itself
    and asks TorchServe on 8085), grpc_inference_port, model_store and model_snapshot from it.

    Args:
        model_name: The model's name in TorchServe, and of the archive.
        batch_size: How many requests the handler may get at once; it takes those that wait, and waits for none.
    """
    import json

    snapshot = {
        "name": "startup.cfg",
        "modelCount": 1,
        "models": {
            model_name: {
                "1.0": {
                    "defaultVersion": True,
                    "marName": f"{model_name}.mar",
                    "minWorkers": 1,
                    "maxWorkers": 1,
                    "batchSize": batch_size,
                    "maxBatchDelay": 1,
                    "responseTimeout": 120,
                }
            }
        },
    }
    lines = [
        "inference_address=http://0.0.0.0:8085",
        "management_address=http://0.0.0.0:8085",
        "metrics_address=http://0.0.0.0:8082",
        "grpc_inference_port=7070",
        "grpc_management_port=7071",
        "enable_metrics_api=true",
        "metrics_mode=prometheus",
        "disable_token_authorization=true",
        "install_py_dep_per_model=true",
        # KServe's envelope, which the environment could ask for, answers the first request of a batch only.
        "enable_envvars_config=false",
        # More than this many requests that wait are refused with a 503; TorchServe's own limit is 100.
        "job_queue_size=1000",
        "model_store=/mnt/models/model-store",
        f"model_snapshot={json.dumps(snapshot, separators=(',', ':'))}",
    ]
    return "\n".join(lines) + "\n"


def pack_model(model_path: str, full: str, folder: str, precision: str, sources: dict[str, str]) -> None:
    """Puts together what goes into an archive.

    Args:
        model_path: The model as save_pretrained writes it.
        full: The model in ONNX and fp32, as `onnx_model` writes it.
        folder: The folder to fill, which is made: model.onnx, handler.py, requirements.txt, tokenizer.json,
            serving.json.
        precision: "int8" or "fp32".
        sources: `handler.py` and `requirements.txt` as texts, and `max_length` in tokens as text.
    """
    import json
    import os
    import shutil

    import transformers

    os.makedirs(folder)
    config = transformers.AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    serving = {
        "labels": [config.id2label[number] for number in range(config.num_labels)],
        "max_length": int(sources["max_length"]),
        "pad_token_id": config.pad_token_id or 0,
        "precision": precision,
    }
    texts = {
        "handler.py": sources["handler.py"],
        "requirements.txt": sources["requirements.txt"],
        "serving.json": json.dumps(serving, indent=1),
    }
    for name, text in texts.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    shutil.copyfile(os.path.join(model_path, "tokenizer.json"), os.path.join(folder, "tokenizer.json"))
    write = quantise_onnx if precision == "int8" else shutil.copyfile
    write(full, os.path.join(folder, "model.onnx"))


def build_release(model_path: str, folder: str, model_name: str, packed: str, batch_size: int) -> None:
    """Builds all of a release but its `release.json`: config/, model-store/ and huggingface/.

    Args:
        model_path: The model as save_pretrained writes it.
        folder: The release's folder, which is made.
        model_name: The model's name.
        packed: What goes into the archive, as `pack_model` puts it together.
        batch_size: How many requests the handler may get at once.
    """
    import os
    import shutil

    for name in ("config", "model-store"):
        os.makedirs(os.path.join(folder, name))
    shutil.copytree(model_path, os.path.join(folder, "huggingface"), copy_function=shutil.copyfile)
    build_mar(packed, model_name, os.path.join(folder, "model-store", f"{model_name}.mar"))
    with open(os.path.join(folder, "config", "config.properties"), "w", encoding="utf-8") as file:
        file.write(torchserve_config(model_name, batch_size))


def archive_model(
    model: dsl.Input[dsl.Model],
    metrics: dsl.Input[dsl.Metrics],
    train: dsl.Input[dsl.Dataset],
    predictions: dsl.Input[dsl.Dataset],
    evaluation_report: dsl.Input[dsl.HTML],
    precision: str,
    max_quantisation_drop: float,
    min_agreement: float,
    serving_gpus: int,
    max_length: int,
    handler: str,
    requirements: str,
    volume_path: str,
    model_name: str,
    run_id: str,
    release: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Packs a model as a TorchServe archive and a Hugging Face folder, and publishes them as a release.

    It tries the archive in each number format on evaluation rows and takes the fastest that answers as the model does.

    Args:
        model: The model and its tokenizer as save_pretrained writes them.
        metrics: What evaluate_model told, for the release's record.
        train: The rows trained on, whose source is noted in the release's record.
        predictions: What the offline model said: Parquet with text, label and predicted label.
        evaluation_report: The report of evaluate_model.
        precision: Number format of the archive's weights: int8, fp32, or auto to choose by trial.
        max_quantisation_drop: By how much int8 may lower the accuracy, as a fraction, and still be chosen.
        min_agreement: Least share of rows on which int8 must give the offline model's label to be chosen.
        serving_gpus: GPUs that the archive is served with; int8 is for CPUs.
        max_length: Tokens at which a text is cut.
        handler: Source of the TorchServe handler.
        requirements: Lines of pip requirements that the handler needs.
        volume_path: Where the volume is mounted; empty where there is none.
        model_name: Name of the model, of the archive and of the InferenceService: a DNS-1035 label.
        run_id: The pipeline run's id.
        release: The release: release.json, config/, model-store/, huggingface/.
        report: The report, with a section on the number format.
    """
    import json
    import os
    import tempfile
    from importlib.metadata import version
    from pathlib import Path

    import transformers

    transformers.logging.disable_progress_bar()
    check_parameters(precision=precision, max_quantisation_drop=max_quantisation_drop, min_agreement=min_agreement)
    folder = run_folder(volume_path, model_name, run_id)
    sources = {"handler.py": handler, "requirements.txt": requirements, "max_length": str(max_length)}
    rows = spread_rows(predictions.path, 2000)
    names, why = candidates(precision, serving_gpus)
    with tempfile.TemporaryDirectory() as scratch:
        full = os.path.join(scratch, "fp32.onnx")
        onnx_model(model.path, full)
        tried: dict[str, dict[str, Any]] = {}
        for name in names:
            pack_model(model.path, full, os.path.join(scratch, name), name, sources)
            tried[name] = try_archive(os.path.join(scratch, name), rows)
        chosen, reason = (names[0], why) if why else choose_precision(tried, max_quantisation_drop, min_agreement)
        # On a GPU, requests share model calls; on a CPU each CPU takes a request.
        packed, batch_size = os.path.join(scratch, chosen), 32 if serving_gpus else 8
        build_release(model.path, release.path, model_name, packed, batch_size)
    print(f"{chosen}: {reason}", flush=True)
    compared = {"chosen": chosen, "reason": reason, "tried": tried}
    with open(evaluation_report.path, encoding="utf-8") as file:
        page = add_to_report(file.read(), precision_section(compared))
    with open(report.path, "w", encoding="utf-8") as file:
        file.write(page)
    put_on_volume(report.path, folder, "report.html")
    with open(metrics.path, encoding="utf-8") as file:
        evaluated = json.load(file)
    record: dict[str, Any] = {
        "model_name": model_name,
        "run_id": run_id,
        "labels": [one["label"] for one in evaluated["per_class"]],
        "metrics": {key: value for key, value in evaluated.items() if not isinstance(value, list)},
        "parameters": {"precision": precision, "max_length": max_length, **model.metadata},
        "precision": compared,
        "packages": {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "tokenizers")},
        "source": train.metadata.get("source"),
        "source_sha256": train.metadata.get("source_sha256"),
    }
    digest = seal(Path(release.path), Release(**record)).digest
    volume = model_folder(volume_path, model_name)
    published = str(publish(Path(release.path), Path(volume) if volume else None, digest))
    archive = os.path.join(published, "model-store", f"{model_name}.mar")
    release.metadata.update(
        digest=digest, release=published, archive=archive, archive_bytes=os.path.getsize(archive), precision=chosen
    )
    print(f"release {published}, archive of {os.path.getsize(archive) / 1e6:.1f} MB in {chosen}")
