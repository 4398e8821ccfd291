"""`archive_model`: from a trained model to a release, immutable and named by its content."""

from typing import Any

from kfp import dsl

from nlp_pipeline import packages
from nlp_pipeline.components.archive_model_release import HELPERS as RELEASE_HELPERS
from nlp_pipeline.components.archive_model_release import publish_release, seal_release
from nlp_pipeline.components.ranges import check_parameters
from nlp_pipeline.components.volume import HELPERS as VOLUME_HELPERS
from nlp_pipeline.components.volume import run_folder


def export_onnx(model_path: str, target: str, precision: str, scratch: str) -> None:
    """Exports a classifier to ONNX; batch and sequence length stay open.

    Opset 18 and IR version 10 are what ONNX Runtime 1.19 reads, the last one for the Python 3.9 of KServe's stock
    TorchServe image. int8 means weights quantised per output channel, activations quantised as they come.

    Args:
        model_path: A folder as save_pretrained writes it.
        target: The ONNX file to write.
        precision: "int8" or "fp32".
        scratch: A folder for what lies between.

    Raises:
        ValueError: The precision is unknown.
    """
    import inspect
    import logging
    import os
    import shutil
    import warnings

    import torch
    import transformers
    from onnxruntime.quantization import QuantType, quantize_dynamic

    check_parameters(precision=precision)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_path, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    ).eval()
    # Some tokenizers give token_type_ids to models that take none.
    known = inspect.signature(model.forward).parameters
    tokens = tokenizer(["a short text", "a text that is longer"], padding=True, return_tensors="pt")
    example = {name: tensor for name, tensor in tokens.items() if name in known}
    full = os.path.join(scratch, "fp32.onnx")
    logging.disable(logging.WARNING)  # of operators for images, and of optimisations not asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (),
                full,
                kwargs=example,
                input_names=list(example),
                output_names=["logits"],
                dynamic_shapes={name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in example},
                opset_version=18,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        forget_origins(full)
        if precision == "fp32":
            shutil.copyfile(full, target)
        else:
            quantize_dynamic(full, target, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.disable(logging.NOTSET)


def forget_origins(path: str) -> None:
    """Removes the notes of an ONNX file of which line of which file each node came from: they name this machine."""
    import onnx

    graph = onnx.load(path)
    for part in [graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.input]:
        del part.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""
    onnx.save(graph, path)


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


def torchserve_config(model_name: str) -> str:
    """Returns the `config.properties` that KServe's TorchServe runtime reads from the release.

    KServe's wrapper in the runtime's image reads inference_address and management_address (it listens on 8080 itself
    and asks TorchServe on 8085), grpc_inference_port, model_store and model_snapshot from it.

    Args:
        model_name: The model's name in TorchServe, and of the archive.
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
                    # KServe's envelope answers the first request of a batch only.
                    "batchSize": 1,
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
        "model_store=/mnt/models/model-store",
        f"model_snapshot={json.dumps(snapshot, separators=(',', ':'))}",
    ]
    return "\n".join(lines) + "\n"


def build_release(
    model_path: str, folder: str, model_name: str, precision: str, sources: dict[str, str], scratch: str
) -> None:
    """Builds all of a release but its `release.json`: config/, model-store/ and huggingface/.

    Args:
        model_path: The model as save_pretrained writes it.
        folder: The release's folder, which is made.
        model_name: The model's name.
        precision: "int8" or "fp32".
        sources: `handler.py` and `requirements.txt` as texts, and `max_length` in tokens as text.
        scratch: A folder for what lies between.
    """
    import json
    import os
    import shutil

    import transformers

    for name in ("config", "model-store"):
        os.makedirs(os.path.join(folder, name))
    shutil.copytree(model_path, os.path.join(folder, "huggingface"), copy_function=shutil.copyfile)
    config = transformers.AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    serving = {
        "labels": [config.id2label[number] for number in range(config.num_labels)],
        "max_length": int(sources["max_length"]),
        "pad_token_id": config.pad_token_id or 0,
    }
    texts = {
        "handler.py": sources["handler.py"],
        "requirements.txt": sources["requirements.txt"],
        "serving.json": json.dumps(serving, indent=1),
    }
    packing = os.path.join(scratch, "packing")
    os.makedirs(packing)
    for name, text in texts.items():
        with open(os.path.join(packing, name), "w", encoding="utf-8") as file:
            file.write(text)
    shutil.copyfile(os.path.join(model_path, "tokenizer.json"), os.path.join(packing, "tokenizer.json"))
    export_onnx(model_path, os.path.join(packing, "model.onnx"), precision, scratch)
    build_mar(packing, model_name, os.path.join(folder, "model-store", f"{model_name}.mar"))
    with open(os.path.join(folder, "config", "config.properties"), "w", encoding="utf-8") as file:
        file.write(torchserve_config(model_name))


@dsl.component(
    base_image=packages.BASE_IMAGE,
    packages_to_install=packages.ARCHIVE_MODEL,
    additional_funcs=[
        *VOLUME_HELPERS,
        *RELEASE_HELPERS,
        export_onnx,
        forget_origins,
        build_mar,
        torchserve_config,
        build_release,
    ],
)
def archive_model(
    model: dsl.Input[dsl.Model],
    metrics: dsl.Input[dsl.Metrics],
    train: dsl.Input[dsl.Dataset],
    precision: str,
    max_length: int,
    handler: str,
    requirements: str,
    volume_path: str,
    model_name: str,
    run_id: str,
    release: dsl.Output[dsl.Model],
) -> None:
    """Packs a model as a TorchServe archive and a Hugging Face folder, and publishes them as a release.

    Args:
        model: The model and its tokenizer as save_pretrained writes them.
        metrics: What evaluate_model told, for the release's record.
        train: The rows trained on, whose source is noted in the release's record.
        precision: Number format of the archive's weights: int8 or fp32.
        max_length: Tokens at which a text is cut.
        handler: Source of the TorchServe handler.
        requirements: Lines of pip requirements that the handler needs.
        volume_path: Where the volume is mounted.
        model_name: Name of the model, of the archive and of the InferenceService: a DNS-1035 label.
        run_id: The pipeline run's id.
        release: The release: release.json, config/, model-store/, huggingface/.
    """
    import json
    import os
    import tempfile
    from importlib.metadata import version

    import transformers

    transformers.logging.disable_progress_bar()
    run_folder(volume_path, model_name, run_id)
    sources = {"handler.py": handler, "requirements.txt": requirements, "max_length": str(max_length)}
    with tempfile.TemporaryDirectory() as scratch:
        build_release(model.path, release.path, model_name, precision, sources, scratch)
    with open(metrics.path, encoding="utf-8") as file:
        evaluated = json.load(file)
    record: dict[str, Any] = {
        "model_name": model_name,
        "run_id": run_id,
        "labels": [one["label"] for one in evaluated["per_class"]],
        "metrics": {key: value for key, value in evaluated.items() if not isinstance(value, list)},
        "parameters": {"precision": precision, "max_length": max_length, **model.metadata},
        "packages": {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "tokenizers")},
        "source": train.metadata.get("source"),
        "source_sha256": train.metadata.get("source_sha256"),
    }
    digest = seal_release(release.path, record)
    published = publish_release(release.path, os.path.join(volume_path, model_name), digest)
    archive = os.path.join(published, "model-store", f"{model_name}.mar")
    release.metadata.update(
        digest=digest, release=published, archive=archive, archive_bytes=os.path.getsize(archive), precision=precision
    )
    print(f"release {published}, archive of {os.path.getsize(archive) / 1e6:.1f} MB in {precision}")
