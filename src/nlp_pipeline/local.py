"""`--local`: the whole pipeline on this machine, from the same IR that the cluster gets."""

import contextlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlp_pipeline import demo, packages
from nlp_pipeline.errors import GateNotPassedError, PipelineError, UsageError
from nlp_pipeline.pipeline.compiling import compile_pipeline, step_containers, step_name
from nlp_pipeline.pipeline.parameters import check_ranges, pipeline_parameters
from nlp_pipeline.progress import Progress
from nlp_pipeline.serving.local_server import predict_with_release

OUTPUTS = Path("outputs")
# All but deploy_model, which needs a cluster.
STEPS = ("load_data", "train_model", "evaluate_model", "gate", "archive_model", "validate_archive")


def local_arguments(values: dict[str, Any], outputs: Path) -> dict[str, Any]:
    """Completes the pipeline's arguments for a run on this machine.

    Args:
        values: What the user set.
        outputs: The folder for all that a local run writes.

    Returns:
        The arguments: the demo's data where the user names none, the demo's encoder, a folder in place of the volume.

    Raises:
        UsageError: A file that the user names is not there.
    """
    arguments: dict[str, Any] = {**demo.PARAMETERS, "base_model": demo.encoder_folder()}
    if "train_data" not in values:
        if "evaluation_data" in values:
            raise UsageError("evaluation_data is set but train_data is not: set both, or train_data alone")
        train, evaluation = demo.write_reviews(outputs / "demo")
        arguments |= {"train_data": str(train), "evaluation_data": str(evaluation)}
    else:
        # Someone else's data has other classes: the pipeline's own name and floor.
        del arguments["model_name"], arguments["min_accuracy"]
    if values.get("deploy"):
        raise UsageError("deploy=true: --local has no cluster; deploy its release with --deploy --release DIR")
    arguments |= {"volume_path": str(outputs / "volume"), **values, "deploy": False}
    check_ranges(arguments)
    for name in ("train_data", "evaluation_data"):
        source = str(arguments.get(name, ""))
        if source and "://" not in source:
            if not Path(source).is_file():
                problem = "that is a folder" if Path(source).is_dir() else "there is no such file"
                raise UsageError(f"{name}={source}: {problem}; give the path of a file, or a URL (http, https, s3)")
            arguments[name] = str(Path(source).absolute())
    volume = Path(arguments["volume_path"]).absolute()
    try:
        volume.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"volume_path={volume} can't be made a folder ({error.strerror}): choose another") from None
    return {**arguments, "volume_path": str(volume)}


def check_packages() -> None:
    """Makes sure that the steps' packages are installed here, as their pods would install them.

    Raises:
        UsageError: One is missing.
    """
    for pin in sorted({pin for step in STEPS for pin in getattr(packages, step.upper())}):
        name, _, pinned = pin.partition("==")
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UsageError(f"{name} is not installed: pip install -c constraints.txt -e '.[local]'") from None
        if installed.partition("+")[0] != pinned:
            print(f"note: {name} {installed} is installed, the steps are pinned to {pinned}", file=sys.stderr)


def for_this_machine(ir: str) -> str:
    """Returns the IR with steps that install nothing: the packages are here, and pip would alter the environment.

    Nor are steps tried again: here, no pod is evicted, and what failed once is to be told at once.
    """
    import yaml

    from nlp_pipeline.pipeline.embedding import INSTALLED

    # The loader and the dumper in C, which PyYAML's wheels have, take a tenth of the time of those in Python.
    loader, dumper = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    documents = list(yaml.load_all(ir, loader))
    for container in step_containers(documents[0]):
        container["command"] = INSTALLED[step_name(container)]
    for task in documents[0]["root"]["dag"]["tasks"].values():
        task.pop("retryPolicy", None)
    return str(yaml.dump_all(documents, Dumper=dumper, sort_keys=False))


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Gives this process and its steps a temporary folder of their own, and removes it."""
    # kfp leaves a folder behind for each step. The name is short: TorchServe's sockets lie below it.
    former, former_variable = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = tempfile.mkdtemp(prefix="nlp-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    try:
        yield Path(folder)
    finally:
        tempfile.tempdir = former
        if former_variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = former_variable
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def python3_on_path() -> Iterator[None]:
    """Lets the steps run as `python3`, and makes that this interpreter.

    kfp.local puts the interpreter's path in the place of every "python3" in a step's arguments, also in the midst of
    paths such as /usr/lib/python3.11/model. Where the interpreter is called "python3", that alters nothing.
    """
    interpreter, path = sys.executable, os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(interpreter).parent), path])
    sys.executable = "python3"
    try:
        yield
    finally:
        sys.executable, os.environ["PATH"] = interpreter, path


def run_steps(arguments: dict[str, Any], root: Path, progress: Progress) -> dict[str, Any]:
    """Runs the pipeline with kfp.local, each step in a process of its own.

    Args:
        arguments: The pipeline's arguments.
        root: The folder for the steps' artifacts.
        progress: Where to tell of it.

    Returns:
        For each step that ran: the metadata of its artifacts by their names, and its parameters' values.

    Raises:
        PipelineError: A step failed.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from kfp import components, local

    component = components.load_component_from_text(for_this_machine(compile_pipeline()))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), workspace_root=str(root / "workspace"))
    try:
        with contextlib.redirect_stdout(progress), python3_on_path(), warnings.catch_warnings():
            # of each step: that its resources, its volume and its display name mean nothing here
            warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
            component(**arguments)
    except RuntimeError as error:
        failed = progress.step or next(reversed(progress.seconds), "")
        reason = progress.raised.get(failed) or str(error)
        raise PipelineError(f"{failed} failed: {reason} (its log: {progress.log.name})") from error
    return read_outputs(root)


def read_outputs(root: Path) -> dict[str, Any]:
    """Returns, by step, what the executor wrote of each: its artifacts' metadata by name, its parameters' values."""
    outputs: dict[str, Any] = {}
    for path in root.glob("*/*/executor_output.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        outputs[path.parent.name.replace("-", "_")] = {
            **{name: one["artifacts"][0]["metadata"] for name, one in content.get("artifacts", {}).items()},
            **content.get("parameterValues", {}),
        }
    return outputs


def check_gate(outputs: dict[str, Any], min_accuracy: float) -> None:
    """Makes sure that the gate was passed, and that all that stands behind it has run.

    kfp.local can skip a condition's steps and yet report success.

    Raises:
        GateNotPassedError: The model is not good enough.
        PipelineError: A step did not run.
    """
    metrics = outputs["evaluate_model"]["metrics"]
    if not outputs["gate"]["Output"]:
        accuracy, majority = metrics["accuracy"], metrics["majority_accuracy"]
        if accuracy < min_accuracy:
            missed = f"{min_accuracy - accuracy:.4f} below min_accuracy={min_accuracy:g}"
        else:
            missed = f"{majority - accuracy:.4f} below {majority:.4f}, that of always naming the most frequent class"
        raise GateNotPassedError(
            f"the gate is not passed: accuracy {accuracy:.4f} is {missed}; nothing was archived. "
            f"The report says where it errs: {metrics['report']}"
        )
    for step in STEPS:
        if step not in outputs:
            raise PipelineError(f"{step} did not run, though all before it did: run again with --debug")


def run_locally(
    values: dict[str, Any], texts: list[str], outputs: Path = OUTPUTS, debug: bool = False
) -> dict[str, Any]:
    """Runs the pipeline on this machine, serves its release and asks it for a handful of texts.

    Args:
        values: The parameters that the user set.
        texts: Texts to ask the served model for; empty for the demo's, or for rows of one's own evaluation data.
        outputs: The folder for all that is written.
        debug: Whether to show the steps' tracebacks.

    Returns:
        What `--json` prints: `run_dir`, `report`, `release`, `archive`, `datasets`, `data`, `training`, `metrics`,
        `validation`, `predictions` and `seconds` (by step, and `total`).

    Raises:
        PipelineError: A step failed, or the gate was not passed.
    """
    began = time.monotonic()
    check_packages()
    try:
        (outputs / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{outputs.absolute()} can't be made ({error.strerror}): run in a folder of yours") from None
    arguments = local_arguments(values, outputs)
    log = outputs / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with scratch_folder() as scratch, Progress(log, sys.stderr, debug) as progress:
        done = run_steps(arguments, scratch / "kfp", progress)
        check_gate(done, arguments.get("min_accuracy", pipeline_parameters()["min_accuracy"].default))
        release = Path(done["archive_model"]["release"]["release"])
        run_dir = Path(done["load_data"]["train"]["run_dir"])
        progress.begin("serve")
        predictions = predict_with_release(release, texts or example_texts(values, run_dir))
        progress.end(good=True)
    return {
        "run_dir": str(run_dir),
        "report": done["evaluate_model"]["metrics"].pop("report"),
        "release": str(release),
        "archive": done["archive_model"]["release"]["archive"],
        "datasets": str(run_dir / "datasets"),
        "log": str(log.absolute()),
        "data": {part: done["load_data"][part]["rows"] for part in ("train", "evaluation")},
        "training": done["train_model"]["training"],
        "metrics": done["evaluate_model"]["metrics"],
        "archive_bytes": done["archive_model"]["release"]["archive_bytes"],
        "precision": done["archive_model"]["release"]["precision"],
        "validation": done["validate_archive"]["validation"],
        "predictions": predictions,
        "seconds": {**progress.seconds, "total": time.monotonic() - began},
    }


def example_texts(values: dict[str, Any], run_dir: Path) -> list[str]:
    """Returns texts to show: the demo's sentences, or the first rows of one's own evaluation data."""
    if "train_data" not in values:
        return demo.SENTENCES
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(run_dir / "datasets" / "evaluation.parquet")
    return [str(text) for text in next(file.iter_batches(batch_size=5, columns=["text"]))["text"].to_pylist()]
