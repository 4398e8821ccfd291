"""One process of training for each GPU of a pod, by torchrun's own launcher."""

import logging
import tempfile
from typing import Any

from accelerate import PartialState
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.steps.train_model.fine_tune import fine_tune


def fine_tune_in_processes(processes: int, *arguments: Any) -> dict[str, Any]:
    """Calls `fine_tune` with its arguments in so many processes.

    The first process prints. Where one ends, torchrun's launcher ends the others, and this raises a PipelineError.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it would print pages of tracebacks
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            logs_specs=DefaultLogsSpecs(logs, local_ranks_filter={0}),
            run_id="training",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            local_addr="localhost",
        )
        try:
            result: dict[str, Any] = elastic_launch(config, fine_tune_and_leave)(*arguments)[0]
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            reason: Any = failure.message
            if isinstance(reason, dict):  # of an exception
                print(reason["extraInfo"]["py_callstack"])
                reason = reason["message"]
            raise PipelineError(f"process {rank} of {processes} failed: {reason}") from None
    return result


def fine_tune_and_leave(*arguments: Any) -> dict[str, Any]:
    """Calls `fine_tune` in one of several processes, and takes leave of the others, as NCCL wants it."""
    result = fine_tune(*arguments)
    PartialState().destroy_process_group()
    return result
