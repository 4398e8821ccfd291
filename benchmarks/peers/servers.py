"""The peers: how each is started on the same weights, with the same limit of tokens."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import OURS
from benchmarks.model import MAX_LENGTH, NAME, baseline_release, kept, release, trained_model
from benchmarks.peers.environments import PINS, python_of
from benchmarks.servers import Server, command_server, torchserve
from nlp_pipeline.serving.torchserve import free_ports

OURS_IN_TORCHSERVE, FORMER = "ours in TorchServe", "former pipeline"
FOLDER = Path(__file__).parent
V2 = f"/v2/models/{NAME}/infer"


def model_folder(quick: bool) -> Path:
    """Returns the model's folder with a tokenizer that says where texts are cut, and that older transformers read."""
    model = trained_model(quick)

    def make(folder: Path) -> None:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"model_max_length": MAX_LENGTH, "tokenizer_class": "BertTokenizerFast"}
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")

    return kept("peers", [model.name, MAX_LENGTH], make)


def exported_model(quick: bool) -> Path:
    """Returns the model's folder with an ONNX file too, which optimum has exported."""
    model = model_folder(quick)

    def make(folder: Path) -> None:
        command: list[str | Path] = [
            python_of("infinity"),
            "-m",
            "optimum.exporters.onnx",
            "--task",
            "text-classification",
        ]
        done = subprocess.run([*command, "--model", model, folder], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"optimum could not export the model: {done.stderr.strip().splitlines()[-1]}")
        shutil.copyfile(model / "tokenizer_config.json", folder / "tokenizer_config.json")

    return kept("peers-onnx", [model.name, PINS["infinity"].read_text(encoding="utf-8")], make)


def onnx_server(release_folder: Path) -> Server:
    """Our own server, on KServe's."""

    def command(port: int) -> list[str | Path]:
        flags = ["--model_dir", str(release_folder), "--http_port", str(port), "--enable_grpc", "false"]
        return [sys.executable, "-m", "nlp_pipeline.serving.server", *flags]

    return command_server(command)


def infinity(quick: bool, engine: str) -> Server:
    """infinity-emb, whose warm-up must not run: its texts are longer than what a model takes."""
    python = python_of("infinity")
    model = model_folder(quick) if engine == "torch" else exported_model(quick)

    def command(port: int) -> list[str | Path]:
        flags = ["--engine", engine, "--device", "cpu", "--no-model-warmup", "--served-model-name", NAME]
        return [python.with_name("infinity_emb"), "v2", "--model-id", ".", *flags, "--port", str(port)]

    environment = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}
    about = {"protocol": "infinity", "truncates": engine == "torch"}
    return command_server(command, environment, "/classify", model, **about)


def fastapi(quick: bool) -> Server:
    """FastAPI on transformers' pipeline, two processes of one thread each."""
    python = python_of("fastapi")
    environment = {"MODEL": str(model_folder(quick)), "MAX_LENGTH": str(MAX_LENGTH), "OMP_NUM_THREADS": "1"}

    def command(port: int) -> list[str | Path]:
        # The parent would take a worker for dead that stood still for as long as others are measured.
        flags = ["--workers", "2", "--timeout-worker-healthcheck", "3600", "--no-access-log", "--port", str(port)]
        return [python, "-m", "uvicorn", "--app-dir", FOLDER, "fastapi_server:app", *flags]

    return command_server(command, environment)


def huggingfaceserver(quick: bool) -> Server:
    """KServe's Hugging Face server, from the copy of kserve/kserve that KSERVE_SOURCE names."""
    source = os.environ.get("KSERVE_SOURCE")
    if not source:
        raise RuntimeError("KSERVE_SOURCE does not name a copy of kserve/kserve")
    packages = [Path(source).absolute() / "python" / name for name in ("kserve", "storage", "huggingfaceserver")]
    python, model = python_of("huggingfaceserver"), model_folder(quick)
    flags = ["--model_name", NAME, "--model_dir", str(model), "--max_model_len", str(MAX_LENGTH)]
    flags += ["--backend", "huggingface", "--task", "sequence_classification", "--disable_log_requests"]

    def command(port: int) -> list[str | Path]:
        ports = ["--http_port", str(port), "--enable_grpc", "false"]
        return [python, FOLDER / "run_huggingfaceserver.py", *flags, *ports]

    environment = {"PYTHONPATH": os.pathsep.join(map(str, packages))}
    return command_server(command, environment)


def mlserver(quick: bool) -> Server:
    """MLServer with its transformers runtime, which cuts no text by itself."""
    python = python_of("mlserver")
    environment = {
        "MLSERVER_MODEL_NAME": NAME,
        "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_huggingface.HuggingFaceRuntime",
        "MLSERVER_MODEL_HUGGINGFACE_TASK": "text-classification",
        "MLSERVER_MODEL_HUGGINGFACE_PRETRAINED_MODEL": str(model_folder(quick)),
        "MLSERVER_MODEL_HUGGINGFACE_FRAMEWORK": "pt",
    }

    def command(port: int) -> list[str | Path]:
        ports = zip(("HTTP", "GRPC", "METRICS"), (port, *free_ports(2)), strict=True)
        settings = [f"MLSERVER_{name}_PORT={number}" for name, number in ports]
        return ["env", *settings, python, FOLDER / "run_mlserver.py", "start", "."]

    return command_server(command, environment, V2, protocol="v2", truncates=False)


def contenders(quick: bool) -> dict[str, Callable[[], Server]]:
    """Returns what makes each server's description: ours first, then the former pipeline's, then the peers."""
    return {
        OURS: lambda: onnx_server(release(quick)),
        OURS_IN_TORCHSERVE: lambda: torchserve(release(quick)),
        FORMER: lambda: torchserve(baseline_release(quick)),
        "FastAPI, 2 processes": lambda: fastapi(quick),
        "infinity, torch": lambda: infinity(quick, "torch"),
        "infinity, optimum": lambda: infinity(quick, "optimum"),
        "huggingfaceserver": lambda: huggingfaceserver(quick),
        "mlserver-huggingface": lambda: mlserver(quick),
    }
