"""Training by transformers' `Trainer`, resumed where it was killed."""

import fcntl
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import Subset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.steps.train_model.device import Device, speed_up_on_cpu
from nlp_pipeline.steps.train_model.rows import training_order
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.volume import Run, digest_of


@contextmanager
def checkpoint_folder(run: Run, inputs: Any) -> Iterator[Path]:
    """Gives a folder that a repeated run with the same inputs finds again; removed once the training succeeded.

    It is named by the digest of the inputs, so that a training never resumes from checkpoints of other data or other
    parameters, and locked. Where another process trains the very same now, or the volume knows no locks, the run gets
    a folder of its own, which its own retries find again. Without a volume it is a temporary one. Of several processes
    of a training, the first says which it is.
    """
    is_main = PartialState().is_main_process
    digest = digest_of(inputs)
    folder = (run.model_folder or Path(tempfile.mkdtemp())) / "checkpoints" / digest
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            if is_main:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            folder = folder.with_name(f"{digest}-{run.run_id}")
            folder.mkdir(exist_ok=True)
        (folder,) = broadcast_object_list([folder])
        yield folder
        if is_main:
            shutil.rmtree(folder)


def last_checkpoint(folder: Path) -> int:
    """Returns the step of the newest checkpoint that was written to its end; 0 where there is none."""
    marks = folder.glob("checkpoint-*/complete")
    return max((int(mark.parent.name.split("-")[1]) for mark in marks), default=0)


def train(
    model: Any, tokenizer: Any, rows: Any, settings: TrainSettings, seed: int, device: Device, folder: Path
) -> dict[str, Any]:
    """Trains a model in place, from the folder's last complete checkpoint on; returns facts and the loss curve.

    Up to ten checkpoints are written in the course of a training; the newest two are kept. The tokenizer pads
    what is computed at once to its longest row. `train_loss` is the mean of the loss curve's last tenth.
    """
    batch_size = settings.batch_size
    order = training_order(rows.data["length"].to_numpy(), settings.epochs, batch_size, seed)
    order = order[: settings.max_steps * batch_size or None]
    steps = math.ceil(len(order) / batch_size)
    first_step = last_checkpoint(folder)
    checkpoint = f"{folder}/checkpoint-{first_step}" if first_step else None
    if checkpoint:
        print(f"going on from step {first_step} of {steps}", flush=True)
    part = batch_size // PartialState().num_processes
    parts = 1
    if device.device == "cpu":
        speed_up_on_cpu(model)
        # A batch's short rows and its long ones, each padded to their own length; their gradients add up to its own.
        parts = math.gcd(part, 2)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=part // parts,
        gradient_accumulation_steps=parts,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_share,
        bf16=device.dtype == "bfloat16",
        use_cpu=device.device == "cpu",
        # A GPU takes batches faster than one process pads them.
        dataloader_num_workers=0 if device.device == "cpu" else 2,
        seed=seed,
        logging_steps=max(1, steps // 40),
        logging_nan_inf_filter=False,
        save_steps=max(1, steps // 10),
        save_total_limit=2,
        disable_tqdm=True,
    )
    arguments._n_gpu = 1  # of several, the Trainer would multiply the batch, and so take fewer steps
    progress = Progress(first_step, model.num_parameters())
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Subset(rows, order),  # Dataset.select would take 60 bytes a row
        processing_class=tokenizer,
        compute_loss_func=loss_share,
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.monotonic() - progress.started
    curve = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    tail = [loss for _, loss in curve[-max(1, len(curve) // 10) :]]
    return {
        "loss_curve": curve,
        "train_loss": sum(tail) / len(tail),
        "steps": steps,
        "resumed_from_step": first_step,
        "samples_per_second": max(0, len(order) - first_step * batch_size) / seconds,
    }


def loss_share(outputs: Any, labels: Any, num_items_in_batch: Any) -> Any:
    """Returns what the rows of a part add to the mean loss of their batch; several labels a row each have their own."""
    loss = binary_cross_entropy_with_logits if labels.is_floating_point() else cross_entropy
    return loss(outputs.logits.float(), labels, reduction="sum") / num_items_in_batch


class Progress(TrainerCallback):
    """Prints a line for each logged loss, has checkpoints not too often, and marks those written to their end."""

    def __init__(self, first_step: int, weights: int) -> None:
        self.first_step = first_step
        # Before it is known: a checkpoint holds three float32 numbers a weight, and a volume takes 250 MB a second.
        self.seconds_to_save = weights * 12 / 250e6
        self.started = self.saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Skips a checkpoint that comes too soon.

        In a short training, or on a slow volume, ten of them would take long: but for the final one, none is written
        before the training has gone on for twenty times as long as one takes. Of several processes, the first decides.
        """
        self.stepped = time.monotonic()
        if control.should_save and state.global_step < state.max_steps:
            (control.should_save,) = broadcast_object_list([self.stepped - self.saved >= 20 * self.seconds_to_save])

    def on_log(self, args: Any, state: Any, control: Any, **values: Any) -> None:
        """Tells how far the training is, and ends it where the loss is no number any more."""
        step, steps, loss = state.global_step, state.max_steps, values["logs"].get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise PipelineError(f"the loss at step {step} is {loss}: try a learning_rate below {args.learning_rate}")
        rate = (step - self.first_step) / (time.monotonic() - self.started)
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        print(
            f"step {step}/{steps}  loss {loss:.4f}  {rate * batch_size:.0f} samples/s  "
            f"{(steps - step) / rate:.0f} s left",
            flush=True,
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Marks the checkpoint as complete."""
        if state.is_world_process_zero:
            Path(f"{args.output_dir}/checkpoint-{state.global_step}/complete").touch()
        print(f"checkpoint at step {state.global_step}", flush=True)
        self.saved = time.monotonic()
        self.seconds_to_save = self.saved - self.stepped
