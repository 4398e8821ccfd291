"""`--local`: the whole pipeline on this machine, from the graph that the cluster gets too."""

import contextlib
import copy
import importlib.metadata
import json
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlp_pipeline import demo, packages
from nlp_pipeline.errors import GateNotPassedError, PipelineError, UsageError
from nlp_pipeline.pipeline.parameters import check_ranges
from nlp_pipeline.platforms.output import print_rows
from nlp_pipeline.processes import environment
from nlp_pipeline.progress import Progress
from nlp_pipeline.serving.endpoint import describe_answer
from nlp_pipeline.serving.local_server import predict_with_release
from nlp_pipeline.steps.evaluate_model.gate import main_figure
from nlp_pipeline.steps.load_data.settings import split_addresses
from nlp_pipeline.volume import GATE, VARIABLE

OUTPUTS = Path("outputs")
# All but deploy_model, which needs a cluster.
STEPS = ("load_data", "train_model", "evaluate_model", "archive_model", "validate_archive")


def run_locally(values: dict[str, Any], texts: list[str], debug: bool = False) -> dict[str, Any]:
    """Runs the pipeline on this machine, serves its release and asks it for a handful of texts.

    Args:
        values: The parameters that the user set.
        texts: Texts to ask the served model for; empty for the demo's, or for rows of one's own evaluation data.
        debug: Whether to show the steps' tracebacks.

    Returns:
        What `--json` prints: `run_dir`, `report`, `release`, `archive`, `datasets` and `log` (paths), `archive_bytes`,
        `precision`, `data` (how many rows to train and to evaluate on), `training`, `metrics` and `validation` (what
        these steps measured), `predictions`, and `seconds` (by step, and `total`).

    Raises:
        UsageError: A package is missing, a parameter is wrong, or the folders can't be made.
        GateNotPassedError: The gate was not passed.
        PipelineError: A step failed, or did not run.
    """
    began = time.monotonic()
    check_packages()
    make_folder(OUTPUTS / "logs", str(OUTPUTS.absolute()))
    arguments, volume = complete_arguments(values), local_volume().absolute()
    make_folder(volume, str(volume))
    log = OUTPUTS / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    # The folder's name is short: TorchServe's sockets lie below it.
    with (
        tempfile.TemporaryDirectory(prefix="nlp-", ignore_cleanup_errors=True) as scratch,
        environment(**{VARIABLE: str(volume), "TMPDIR": scratch, "TOKENIZERS_PARALLELISM": "false"}),
        Progress(log, sys.stderr, debug) as progress,
    ):
        outputs = run_steps(arguments, Path(scratch) / "kfp", progress)
        check_outputs(outputs)
        archived, report = outputs["archive_model"]["release"], outputs["evaluate_model"]["metrics"].pop("report")
        run_dir = Path(report).parent
        progress.begin("serve")
        predictions = predict_with_release(Path(archived["release"]), texts or example_texts(values, run_dir))
        progress.end(succeeded=True)
    return {
        "run_dir": str(run_dir),
        "report": report,
        "archive": str(next(Path(archived["release"]).glob("model-store/*.mar"))),
        **{name: archived[name] for name in ("release", "archive_bytes", "precision")},
        "datasets": str(run_dir / "datasets"),
        "log": str(log.absolute()),
        "data": {part: outputs["load_data"][part]["rows"] for part in ("train", "evaluation")},
        "training": outputs["train_model"]["training"],
        "metrics": outputs["evaluate_model"]["metrics"],
        "validation": outputs["validate_archive"]["validation"],
        "predictions": predictions,
        "seconds": {**progress.seconds, "total": time.monotonic() - began},
    }


def check_packages() -> None:
    """Raises UsageError where a step's package, as its pod would install it, is missing; other versions get a note."""
    # Only in a pod is the cluster asked what serves.
    for pin in sorted({pin for step in STEPS for pin in packages.STEPS[step]} - {packages.KUBERNETES}):
        name, _, pinned = pin.partition("==")
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UsageError(f"{name} is not installed: pip install -c constraints.txt -e '.[local]'") from None
        if installed.partition("+")[0] != pinned:
            print(f"note: {name} {installed} is installed, the steps are pinned to {pinned}", file=sys.stderr)


def make_folder(path: Path, name: str) -> None:
    """Makes a folder where there is none; raises UsageError, in which it has that name, where it can't be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{name} can't be made a folder ({error.strerror}): choose another, or work in a folder of yours"
        ) from None


def complete_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the pipeline's arguments: where the user sets none, the demo's."""
    from nlp_pipeline.steps.load_data.fetch import list_sources

    arguments: dict[str, Any] = {**demo.TRAINING, "base_model": demo.encoder_folder()}
    if "train_data" not in values:
        if values.get("evaluation_data"):
            raise UsageError("evaluation_data is set but train_data is not: set both, or train_data alone")
        arguments |= {**demo.MODEL, **demo.write_reviews(OUTPUTS / "demo")}
    if values.get("deploy"):
        raise UsageError("deploy=true: --local has no cluster; deploy its release with --deploy --release DIR")
    arguments |= {**values, "deploy": False, "train_nodes": 1}  # this machine
    check_ranges(arguments)
    for name in ("train_data", "evaluation_data"):
        files = [path for path in split_addresses(arguments.get(name, "")) if path and "://" not in path]
        for path in files:
            if not any(Path(file).is_file() for file in list_sources(path)):
                raise UsageError(f"{name}={path}: there is no such file; give a path, or a URL (http, https, s3)")
        if files:
            paths = [str(Path(path).absolute()) if path in files else path for path in split_addresses(arguments[name])]
            arguments[name] = json.dumps(paths) if len(paths) > 1 else paths[0]
    return arguments


def local_volume() -> Path:
    """Returns the folder in place of the volume: what NLP_PIPELINE_VOLUME names, or one below the outputs."""
    return Path(os.environ.get(VARIABLE, OUTPUTS / "volume"))


def run_steps(arguments: dict[str, Any], root: Path, progress: Progress) -> dict[str, Any]:
    """Runs the pipeline with kfp.local, each step in a process of its own, with their artifacts below `root`.

    Returns, for each step that ran, the metadata of its artifacts by their names, and its parameters' values.
    """
    from kfp import local

    pipeline = local_pipeline()
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), workspace_root=str(root / "workspace"))
    try:
        with contextlib.redirect_stdout(progress), python3_on_path(), warnings.catch_warnings():
            # of each step: that its resources, its volume and its display name mean nothing here
            warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
            pipeline(**arguments)
    except RuntimeError as error:
        failed = progress.step or next(reversed(progress.seconds), "")
        reason = progress.error_messages.get(failed) or str(error)
        raise PipelineError(f"{failed} failed: {reason} (its log: {progress.log.name})") from error
    outputs: dict[str, Any] = {}
    for path in root.glob("*/*/executor_output.json"):
        output = json.loads(path.read_text(encoding="utf-8"))
        outputs[path.parent.name.replace("-", "_")] = {
            **{name: artifact["artifacts"][0]["metadata"] for name, artifact in output.get("artifacts", {}).items()},
            **output.get("parameterValues", {}),
        }
    return outputs


def local_pipeline() -> Any:
    """Returns the pipeline with steps as in an image that holds the package: nothing is embedded, nothing installed.

    It ends before deploy_model, which needs a cluster, and without a notice.
    Nor are steps tried again: here, no pod is evicted, and what failed once is to be reported at once.
    """
    from nlp_pipeline.pipeline.embedding import image_command
    from nlp_pipeline.pipeline.kubeflow import nlp_pipeline

    pipeline = copy.deepcopy(nlp_pipeline)
    groups = [pipeline.pipeline_spec.root, *pipeline.pipeline_spec.components.values()]
    tasks = [group.dag.tasks for group in groups]
    for unwanted in ("deploy-model", "notify"):
        next(group for group in tasks if unwanted in group).pop(unwanted)
    for name, executor in pipeline.pipeline_spec.deployment_spec["executors"].items():
        step = name.removeprefix("exec-").replace("-", "_")
        executor["container"].update({"command": image_command(step)})
    for task in (task for group in tasks for task in group.values()):
        task.ClearField("retry_policy")
    return pipeline


@contextlib.contextmanager
def python3_on_path() -> Iterator[None]:
    """Lets the steps run as `python3`, and makes that this interpreter.

    kfp.local puts the interpreter's path in the place of every "python3" in a step's arguments, also in the midst of
    paths such as /usr/lib/python3.11/model. Where the interpreter is called "python3", that alters nothing.
    """
    interpreter = sys.executable
    sys.executable = "python3"
    try:
        with environment(PATH=os.pathsep.join([str(Path(interpreter).parent), os.environ.get("PATH", "")])):
            yield
    finally:
        sys.executable = interpreter


def check_outputs(outputs: dict[str, Any]) -> None:
    """Raises GateNotPassedError where the gate was not passed, and PipelineError where a step did not run.

    kfp.local can skip a condition's steps and yet report success.
    """
    if not outputs["evaluate_model"]["Output"]:
        report = Path(outputs["evaluate_model"]["metrics"]["report"])
        reason = json.loads(report.with_name(GATE).read_bytes())["reason"]
        raise GateNotPassedError(
            f"the gate is not passed: {reason}; nothing was archived. The report says where it errs: {report}"
        )
    if missing := [step for step in STEPS if step not in outputs]:
        raise PipelineError(f"{missing[0]} did not run, though all before it did: run again with --debug")


def example_texts(values: dict[str, Any], run_dir: Path) -> list[str]:
    """Returns texts to show: the demo's sentences, or the first rows of one's own evaluation data."""
    from nlp_pipeline.steps.parquet import read_batches

    if "train_data" not in values:
        return demo.SENTENCES
    batch = next(read_batches(run_dir / "datasets" / "evaluation.parquet", "text"))
    return [str(text) for text in batch["text"][:5]]


def print_summary(result: dict[str, Any]) -> None:
    """Prints what `run_locally` returned: predictions, a table of the steps, where everything lies, what to do next."""
    predictions = []
    for item in result["predictions"]:
        text = " ".join(item["text"].split())
        text = text if len(text) <= 80 else f"{text[:79]}…"
        predictions.append(dict(zip(("label", "score", "text"), (*describe_answer(item, 3), text), strict=True)))
    seconds = {name: f"{value:7.1f}" for name, value in result["seconds"].items()}
    steps = [{"step": step, "seconds": seconds[step], "": text} for step, text in main_figures(result).items()]
    steps.append({"step": "all", "seconds": seconds["total"], "": ""})
    for rows in (predictions, steps):
        print()
        print_rows(rows, tuple(rows[0]), as_json=False)
    print()
    for name in ("report", "release", "datasets"):
        print(f"{name:<9} {shortest(result[name])}")
    print(next_commands(shortest(result["release"])))


def main_figures(result: dict[str, Any]) -> dict[str, str]:
    """Returns the figure to show of each step."""
    data, training, metrics, validation = (result[key] for key in ("data", "training", "metrics", "validation"))
    return {
        "load_data": f"{data['train']:,} rows to train on, {data['evaluation']:,} to evaluate on",
        "train_model": f"{training['samples_per_second']:.0f} samples/s, {training['dtype']} on {training['device']}",
        "evaluate_model": "{} {:.3f} (majority class {:.3f})".format(*main_figure(metrics)),
        "archive_model": f"archive of {result['archive_bytes'] / 1e6:.1f} MB in {result['precision']}",
        "validate_archive": f"{validation['agreement']:.1%} as offline, {validation['p50_ms']:.1f} ms at the median, "
        f"{validation['requests_per_second']:.0f} requests/s",
        "serve": f"{len(result['predictions'])} predictions",
    }


def next_commands(release: str) -> str:
    """Returns what to run after a local run."""
    quoted = shlex.quote(release)
    # Without --release, they take the release that was validated last in outputs/volume.
    where = "" if release.startswith(f"{OUTPUTS / 'volume'}/") else f" --release {quoted}"
    return f"""
next:
  python pipeline_v2.py --serve{where:<26}keep serving this release
  python pipeline_v2.py --predict "your own text"{where:<8}ask it
  python pipeline_v2.py --local --set train_data=my.csv  train on your own rows
  python pipeline_v2.py --compile                        the file for the Kubeflow dashboard
  python pipeline_v2.py --deploy --release {quoted} --set model_store=s3://BUCKET
                                                         serve it with KServe, by your kubeconfig"""


def shortest(path: str) -> str:
    """Returns a path relative to the working folder where it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
