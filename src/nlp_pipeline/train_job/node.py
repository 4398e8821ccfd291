"""What runs in each pod of a TrainJob: torchrun, which starts a process for each GPU, and those processes."""

import dataclasses
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.volume import Run

# How the line of an error of the project's own begins: it would come again.
FINAL = "error: "


def describe_training(rows: Path, settings: TrainSettings, seed: int, run: Run, source: dict[str, Any] | None) -> str:
    """Returns as text what a node is given: the arguments of `fine_tune`, whose rows lie on the volume."""
    values = {"rows": str(rows), "settings": dataclasses.asdict(settings), "seed": seed, "source": source}
    return json.dumps({**values, "run": {"model_name": run.model_name, "run_id": run.run_id}})


def launch() -> None:
    """Starts torchrun with as many processes as there are GPUs; its environment has the nodes, and which this is.

    It is given what `describe_training` returns.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it would print pages of tracebacks
    processes = max(1, torch.cuda.device_count())
    try:
        # The first process alone prints.
        options = [f"--nproc-per-node={processes}", "--local-ranks-filter=0", "--module", __name__]
        run(parse_args([*options, sys.argv[1]]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        reason: Any = failure.message
        sys.exit(f"process {rank} failed: {reason['message'] if isinstance(reason, dict) else reason}")


def train(training: str) -> None:
    """Trains in one of the processes; what the first of all writes stays, on the volume."""
    from nlp_pipeline.steps.train_model.processes import fine_tune_and_leave

    values = json.loads(training)
    settings, run = TrainSettings(**values["settings"]), Run(**values["run"])
    with tempfile.TemporaryDirectory() as folder:
        fine_tune_and_leave(values["rows"], Path(folder, "model"), settings, values["seed"], run, values["source"])


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    try:
        record(train)(sys.argv[1])
    except PipelineError as error:
        print(f"{FINAL}{error}", flush=True)
        sys.exit(error.exit_code)
