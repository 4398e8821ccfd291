"""A release's files: the archive with what its handler needs, the server's configuration, the Hugging Face folder."""

import json
import shutil
import zipfile
from pathlib import Path

from nlp_pipeline.steps.archive_model.quantisation import quantise
from nlp_pipeline.steps.classes import Classes
from nlp_pipeline.steps.training_data import TEXTS
from nlp_pipeline.volume import copy_folder

# The number formats of an archive on a CPU, in order of speed, but for fp32.
INT8 = ["int8", "int8-by-token"]

# What the handler needs where the archive is served; KServe's stock TorchServe image is Python 3.9.
HANDLER_REQUIREMENTS = ["numpy>=1.24,<3", "onnxruntime>=1.19,<2", "tokenizers>=0.22,<1"]
# What the handler imports, by the name that it has in the archive: no version of this package that is installed where
# the archive is served is to be taken for it.
MODEL_MODULE = "archived_model"


def pack_model(model_path: Path, full: Path, folder: Path, precision: str, max_length: int) -> None:
    """Puts together what goes into an archive, in a folder that it makes; `full` is the model in ONNX and fp32."""
    import transformers

    from nlp_pipeline.serving import handler, model

    config = transformers.AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    classes = Classes.of(model_path)
    serving = {
        "labels": classes.labels,
        **({"thresholds": classes.thresholds} if classes.thresholds else {}),
        **({"long_texts": config.long_texts} if hasattr(config, "long_texts") else {}),
        "max_length": max_length,
        "pad_token_id": config.pad_token_id or 0,
        "precision": precision.partition("-")[0],  # by which the handler chooses between CPU and GPU
    }
    folder.mkdir()
    (folder / "serving.json").write_text(json.dumps(serving, indent=1), encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(HANDLER_REQUIREMENTS), encoding="utf-8")
    source = Path(handler.__file__).read_text(encoding="utf-8").replace(model.__name__, MODEL_MODULE)
    (folder / "handler.py").write_text(source, encoding="utf-8")
    shutil.copyfile(model.__file__, folder / f"{MODEL_MODULE}.py")
    shutil.copyfile(model_path / "tokenizer.json", folder / "tokenizer.json")
    if precision == "fp32":
        shutil.copyfile(full, folder / "model.onnx")
    else:
        quantise(full, folder / "model.onnx", by_token=precision != INT8[0])


def build_mar(folder: Path, model_name: str, target: Path) -> None:
    """Builds a `.mar` as torch-model-archiver does, but so that the same files give the same bytes."""
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging_utils import ModelExportUtils

    config = ModelArchiverConfig(
        model_name=model_name,
        version="1.0",
        serialized_file="model.onnx",
        handler="handler.py",
        requirements_file="requirements.txt",
    )
    manifest = json.loads(ModelExportUtils.generate_manifest_json(config))
    del manifest["createdOn"]
    contents = {"MAR-INF/MANIFEST.json": json.dumps(manifest, indent=2, sort_keys=True).encode()}
    # Where the handler was tried, Python may have left a folder of its own.
    contents |= {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # its date is always the same


def server_config(model_name: str, batch_size: int, parts: int = 1) -> str:
    """Returns the `config.properties` that KServe's TorchServe runtime reads from the release.

    KServe's wrapper in the runtime's image reads inference_address and management_address (it listens on 8080 itself
    and asks TorchServe on 8085), grpc_inference_port, model_store and model_snapshot from it. The handler gets up to
    `batch_size` requests at once: those that wait; it waits for none. A text has up to so many `parts`.
    """
    version = {
        "defaultVersion": True,
        "marName": f"{model_name}.mar",
        "minWorkers": 2,  # while one computes a request of many texts, the other answers small ones
        "maxWorkers": 2,
        "batchSize": batch_size,
        "maxBatchDelay": 1,
        "responseTimeout": 600 * parts,  # then the worker is killed; full requests of long texts may take minutes
    }
    snapshot = {"name": "startup.cfg", "modelCount": 1, "models": {model_name: {"1.0": version}}}
    # enable_envvars_config: KServe's envelope, which the environment could ask for, answers the first request of a
    # batch only. job_queue_size: more requests that wait are refused with a 503; TorchServe's own limit is 100.
    # max_response_size: beyond it, TorchServe kills the worker, and all of the batch get a 500.
    return f"""\
inference_address=http://0.0.0.0:8085
management_address=http://0.0.0.0:8085
metrics_address=http://0.0.0.0:8082
grpc_inference_port=7070
grpc_management_port=7071
enable_metrics_api=true
metrics_mode=prometheus
disable_token_authorization=true
install_py_dep_per_model=true
enable_envvars_config=false
job_queue_size=1000
max_response_size=100000000
model_store=/mnt/models/model-store
model_snapshot={json.dumps(snapshot, separators=(",", ":"))}
"""


def build_release(model_path: Path, packed: Path, folder: Path, model_name: str, batch_size: int) -> None:
    """Writes all of a release but its record, in a folder that it makes; `packed` is what `pack_model` put together."""
    from nlp_pipeline.serving.model import WINDOWS

    parts = WINDOWS if json.loads((packed / "serving.json").read_bytes()).get("long_texts") == "windows" else 1
    for name in ("config", "model-store"):
        (folder / name).mkdir(parents=True)
    (folder / "config" / "config.properties").write_text(server_config(model_name, batch_size, parts), encoding="utf-8")
    build_mar(packed, model_name, folder / "model-store" / f"{model_name}.mar")
    copy_folder(model_path, folder / "huggingface")
    # How long the training took is another time the next time: the same model shall give the same release.
    for name in ("training.json", TEXTS):
        (folder / "huggingface" / name).unlink(missing_ok=True)
