"""What a run will cost, as far as it is known before: pods, what they ask for in all, storage, and rough time."""

import json
from pathlib import Path
from typing import Any

from kubernetes.utils.quantity import parse_quantity
from rich.filesize import decimal

from nlp_pipeline.kubeflow.nodes import describe
from nlp_pipeline.kubeflow.runs import ALL_STEPS
from nlp_pipeline.pipeline.pods import GPU, STEP, requests_of

# The rates that `make bench` recorded, in a checkout; and there, what was trained by them.
RECORDED, BENCH_MODEL = Path(__file__).parents[3] / "benchmarks" / "results.json", "six layers, 23 million weights"
# Bytes of storage for a weight: in float32 as it is in a run's folder; in a release, as the model and in the archive,
# int8 or float32; in checkpoints, which hold the weights and two moments: two stay, and a third is being written.
MODEL, RELEASE, CHECKPOINTS = 4, (5, 8), 3 * 12
# So much faster or slower than a recorded rate may another machine be that is no other kind of machine.
SPREAD = 2


def describe_costs(values: dict[str, Any], volume: Path) -> dict[str, str]:
    """Returns what a run of the whole pipeline asks of a cluster.

    Args:
        values: All parameters.
        volume: The folder of local runs, one of which may have recorded how fast the base model is trained.

    Returns:
        Texts for people: `pods` (how many), `at once` (the most that they ask for at a time), `storage` (on the volume)
        and `time` (that training takes).
    """
    return {
        "pods": count_pods(values),
        "at once": describe_most(values),
        "storage": describe_storage(values["base_model"]),
        "time": describe_time(values, volume),
    }


def count_pods(values: dict[str, Any]) -> str:
    """Returns how many pods there are, and how many of them at once."""
    nodes, least, most = values["train_nodes"], values["min_replicas"], values["max_replicas"]
    text = f"{len(ALL_STEPS)} of steps, one after the other"
    if nodes > 1:
        text += f", and while it trains {nodes} that train"
    if values["deploy"]:
        text += f"; {least if least == most else f'{least} to {most}'} that serve, twice as many while one rolls out"
    return text


def describe_most(values: dict[str, Any]) -> str:
    """Returns the most that the steps ask for at once, which is while they train, and the most memory that they use."""
    training = next(asked for what, asked in requests_of(values).items() if what.startswith("training"))
    nodes = values["train_nodes"]
    pods = nodes + 1 if nodes > 1 else 1  # the step's own pod follows its nodes, and is like them
    total = {
        "cpu": f"{(parse_quantity(training['cpu']) * pods).normalize():f}",
        "memory": f"{parse_quantity(training['memory']) * pods / 2**30:.3g}Gi",
    }
    if GPU in training:
        total[GPU] = str(int(training[GPU]) * pods)
    limit = f"{parse_quantity(values['train_memory']) * pods / 2**30:.3g}Gi"
    return f"{describe(total)} while training, which uses at most {limit}; other steps {describe(STEP)}"


def describe_storage(base_model: str) -> str:
    """Returns what a run leaves on the volume, by the size of a base model that lies on this machine."""
    weights = sum(file.stat().st_size for file in Path(base_model).glob("*.safetensors")) / MODEL
    sizes = [decimal(int(weights * size) if weights else size) for size in (*RELEASE, MODEL, CHECKPOINTS)]
    where = "on the volume" if weights else f"not known, as {base_model} is not on this machine: for each weight"
    return (
        f"{where} {sizes[0]} to {sizes[1]} for the release, {sizes[2]} for the run's copy of the model, at most "
        f"{sizes[3]} for checkpoints while it trains; and the data"
    )


def describe_time(values: dict[str, Any], volume: Path) -> str:
    """Returns how long training takes, by a rate that was recorded; of other steps none is."""
    if values["train_gpus"] != "0":
        return "not known: no rate on GPUs is recorded"
    rate, source = find_rate(values, volume)
    if not rate:
        return "not known: no rate is recorded"
    rows, what = rows_of(values)
    seconds = [rows / rate / SPREAD, rows / rate * SPREAD]
    return (
        f"training {in_time(seconds[0])} to {in_time(seconds[1])} for {what}, where model and machine are like those "
        f"of {source}: {rate:.3g} rows/s, give or take a factor of {SPREAD}; of other steps no time is recorded"
    )


def find_rate(values: dict[str, Any], volume: Path) -> tuple[float, str]:
    """Returns a rate of training, in rows a second, and where it is from; 0 where there is none.

    A local run with the same base model comes first, the newest of them; then the bench.
    """
    runs = (volume / values["model_name"] / "runs").glob("*/training.json")
    for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True):
        facts = json.loads(path.read_bytes())
        if Path(facts.get("base_model", "")).name == Path(values["base_model"]).name and facts.get("device") == "cpu":
            return facts["samples_per_second"], f"{path} (the same model)"
    if not RECORDED.exists():
        return 0, ""
    bench = json.loads(RECORDED.read_bytes())
    figures = {item["name"]: item["medians"]["ours"] for item in bench["topics"]["training"]["figures"]}
    tokens = 128 if values["max_length"] <= 128 else 256
    machine = f"{bench['machine']['cpus']} CPUs of {bench['machine']['cpu']}"
    source = f"{RECORDED.parent.name}/{RECORDED.name} ({BENCH_MODEL}, {tokens} tokens, {machine})"
    return figures.get(f"training, {tokens} tokens", 0), source


def rows_of(values: dict[str, Any]) -> tuple[float, str]:
    """Returns for how many rows a time is told, each as often as it is trained on, and how many these are in words."""
    epochs, batch_size, steps, most = (values[name] for name in ("epochs", "batch_size", "max_steps", "max_train_rows"))
    if steps:
        return steps * batch_size, f"at most max_steps={steps}"
    if most:
        return most * epochs, f"at most max_train_rows={most}, {epochs:g} epochs"
    return 1000 * epochs, f"each 1,000 rows, {epochs:g} epochs"


def in_time(seconds: float) -> str:
    """Returns a time in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
