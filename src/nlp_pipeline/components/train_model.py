"""`train_model`: fine-tunes a Hugging Face encoder, and goes on from the last checkpoint where it was killed."""

from typing import Any

from kfp import dsl

from nlp_pipeline.components.labels import label_order
from nlp_pipeline.components.ranges import check_parameters
from nlp_pipeline.components.volume import model_folder, put_on_volume, run_folder


def choose_device() -> dict[str, str]:
    """Chooses device and number format for training.

    Returns:
        `device` ("cuda" or "cpu"), `dtype` ("bfloat16" or "float32": the format of the matrix products; weights and
        optimiser stay in float32), and the `reason` for the choice.
    """
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return {"device": "cuda", "dtype": "bfloat16", "reason": f"{name} computes in bfloat16"}
        return {"device": "cuda", "dtype": "float32", "reason": f"{name} has no bfloat16"}
    capabilities = torch.cpu.get_capabilities()
    for feature in ("amx_bf16", "avx512_bf16"):
        if capabilities.get(feature):
            return {"device": "cpu", "dtype": "bfloat16", "reason": f"no GPU; the CPU has {feature}"}
    return {"device": "cpu", "dtype": "float32", "reason": "no GPU; the CPU has neither amx_bf16 nor avx512_bf16"}


def load_base_model(base_model: str, labels: list[str], max_length: int) -> tuple[Any, Any]:
    """Loads an encoder with a new classification head, and its tokenizer, from a folder or the Hugging Face hub.

    Only safetensors weights are read, and no code of the model's own is run. Attention is trained without dropout, as
    newer encoders are: to draw the random numbers for it takes a CPU about as long as all matrix products together,
    and accuracy does not suffer (README, Performance). The other layers keep the dropout that the encoder came with.

    Args:
        base_model: A folder, or a hub id such as "distilbert/distilbert-base-uncased".
        labels: The label names in the order of their ids.
        max_length: Tokens that the model must be able to read.

    Returns:
        The model (`AutoModelForSequenceClassification`) and the tokenizer (a fast one).

    Raises:
        ValueError: The model can't be used: not there, no safetensors, no fast tokenizer, or too short a reach.
    """
    import os

    import transformers

    if (base_model.startswith((".", "/", "~")) or os.path.exists(base_model)) and not os.path.isdir(base_model):
        raise ValueError(f"base_model {base_model!r} is not a folder here: give a folder or a hub id")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base_model, trust_remote_code=False)
        config = transformers.AutoConfig.from_pretrained(
            base_model,
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
            trust_remote_code=False,
        )
        for name in ("attention_probs_dropout_prob", "attention_dropout"):  # as BERT calls it, and as DistilBERT does
            if hasattr(config, name):
                setattr(config, name, 0.0)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            base_model,
            config=config,
            dtype="float32",  # whatever they were saved in: autocast needs weights that keep small updates
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"base_model {base_model!r} can't be loaded ({reason}); without the hub, pass a folder that holds "
            "config.json, model.safetensors and tokenizer.json: base_model=/path/to/folder"
        ) from None
    # Where there is no tokenizer, transformers makes one that knows the special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"base_model {base_model!r} has no tokenizer: put its tokenizer.json beside config.json")
    if not tokenizer.is_fast:
        raise ValueError(f"base_model {base_model!r} has no fast tokenizer (tokenizer.json), which serving needs")
    reach = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", max_length) or max_length)
    if not 1 <= max_length <= reach:
        raise ValueError(f"max_length is {max_length}: {base_model!r} reads from 1 to {reach} tokens")
    return model, tokenizer


def tokenise(path: str, tokenizer: Any, labels: list[str], limits: dict[str, int], cache: str) -> Any:
    """Reads rows from Parquet and tokenises them.

    Args:
        path: Parquet with the columns `text` and `label`.
        tokenizer: A fast tokenizer.
        labels: The label names in the order of their ids.
        limits: `max_length` in tokens; `max_train_rows`, 0 for all; `seed` of the choice where rows are left out.
        cache: A folder for the tokenised rows, which are read from there, not kept in memory.

    Returns:
        A `datasets.Dataset` with the tokenizer's columns, `labels`, and `length` in tokens.
    """
    import datasets

    datasets.disable_progress_bars()
    ids = {label: number for number, label in enumerate(labels)}
    rows = datasets.Dataset.from_parquet(path, cache_dir=cache)
    if 0 < limits["max_train_rows"] < len(rows):
        rows = rows.shuffle(seed=limits["seed"]).select(range(limits["max_train_rows"]))

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer(batch["text"], truncation=True, max_length=limits["max_length"])
        length = [len(tokens) for tokens in encoded["input_ids"]]
        return {**encoded, "length": length, "labels": [ids[label] for label in batch["label"]]}

    return rows.map(encode, batched=True, remove_columns=["text", "label"])


def training_order(lengths: list[int], epochs: float, batch_size: int, seed: int) -> list[int]:
    """Returns the rows to train on, one after the other, so that rows of a batch are of like length.

    A batch is padded to its longest row, so mixed lengths are mostly padding. Rows are shuffled, epoch after epoch,
    then sorted by length within pools of up to 50 batches, and their batches shuffled: each batch still holds rows
    from everywhere, and no stretch of the training sees only short or only long ones. The order is that of all epochs,
    and fixed by the seed alone, so that a training that was killed goes on with the very next row.

    Args:
        lengths: Tokens of each row.
        epochs: How many times each row comes; with a fraction, some rows come once more than others.
        batch_size: Rows of a batch.
        seed: Seed of the order.
    """
    import math
    import random

    rng = random.Random(seed)  # noqa: S311, an order, no secret
    shuffled: list[int] = []
    for _ in range(math.ceil(epochs)):
        shuffled += rng.sample(range(len(lengths)), len(lengths))
    shuffled = shuffled[: max(1, round(len(lengths) * epochs))]
    order: list[int] = []
    # No pool has more than an epoch's rows: the same row twice in a batch would teach no more than once.
    size = batch_size * max(1, min(50, len(lengths) // batch_size))
    for start in range(0, len(shuffled), size):
        pool = sorted(shuffled[start : start + size], key=lambda row: lengths[row])
        batches = [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
        rest = batches.pop() if len(batches[-1]) < batch_size else []  # it must stay the last, or all others shift
        rng.shuffle(batches)
        order += [row for batch in [*batches, rest] for row in batch]
    return order


def checkpoint_folder(volume_path: str, model_name: str, run_id: str, inputs: dict[str, Any]) -> tuple[str, Any]:
    """Returns a folder for checkpoints that a repeated run with the same inputs finds again, locked for this process.

    Where there is no volume, it is a temporary one, which no other run finds.

    The folder is named by the digest of all that determines the training, so that checkpoints of another data set or
    of other parameters are never gone on from. Where another process trains the very same now, or the volume knows
    no locks, the run gets a folder of its own, which its own retries find again.

    Args:
        volume_path: Where the volume is mounted; empty where there is none.
        model_name: The model's name.
        run_id: The pipeline run's id.
        inputs: All that determines the training, as JSON values.

    Returns:
        The folder, and the open lock file, which must stay open while the folder is in use.
    """
    import fcntl
    import hashlib
    import json
    import os
    import tempfile

    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    folder = os.path.join(model_folder(volume_path, model_name) or tempfile.mkdtemp(), "checkpoints", digest)
    os.makedirs(folder, exist_ok=True)
    lock = open(os.path.join(folder, "lock"), "w")  # noqa: SIM115, the caller closes it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        folder = f"{folder}-{run_id}"
        os.makedirs(folder, exist_ok=True)
    return folder, lock


def last_checkpoint(folder: str) -> str | None:
    """Returns the newest checkpoint that was written to its end; None where there is none."""
    import os

    names = [name for name in os.listdir(folder) if name.startswith("checkpoint-")]
    for name in sorted(names, key=lambda name: int(name.split("-")[1]), reverse=True):
        if os.path.exists(os.path.join(folder, name, "complete")):
            return os.path.join(folder, name)
    return None


def base_model_identity(base_model: str) -> list[Any]:
    """Returns what tells one base model from another: the hub id, or a path with its files' sizes and times."""
    import os

    files = sorted(os.scandir(base_model), key=lambda file: file.name) if os.path.isdir(base_model) else []
    return [base_model, [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]]


def quick_dropout(model: Any) -> None:
    """Replaces a model's dropout layers by ones that do the same faster on a CPU.

    PyTorch draws a random number for each activation, one after the other: an eighth of a step. These draw 64
    bits for eight activations, which leaves a share that is a multiple of 1/256: 0.1016 for 0.1.

    Args:
        model: The model, whose layers are replaced in place.
    """
    import torch

    class QuickDropout(torch.nn.Dropout):
        """Sets a share `p` of the activations to 0, and scales the others so that the mean stays."""

        def forward(self, activations: torch.Tensor) -> torch.Tensor:
            dropped = round(self.p * 256)
            if not self.training or dropped in (0, 256):
                return super().forward(activations)
            count = activations.numel()
            words = torch.empty(count // 8 + 1, dtype=torch.int64).random_(-(2**63), None)
            kept = words.view(torch.uint8)[:count].view(activations.shape) >= dropped
            return activations * kept * (256 / (256 - dropped))

    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if type(layer) is torch.nn.Dropout:
                setattr(parent, name, QuickDropout(layer.p))


def progress(folder: str, steps: int, first_step: int, parameters: int, options: dict[str, Any]) -> Any:
    """Returns a callback for the `Trainer` that tells how far it is, and looks after checkpoints.

    Args:
        folder: Where checkpoints lie.
        steps: Steps of the whole training.
        first_step: Steps that were done when it began: more than 0 where it goes on.
        parameters: The model's size.
        options: `batch_size` and `learning_rate`.
    """
    import math
    import os
    import time

    import transformers

    class Progress(transformers.TrainerCallback):
        """Prints a line for each logged loss, has checkpoints not too often, and marks those written to their end."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started = self.saved = time.monotonic()
            # Before it is known: a checkpoint holds three float32 numbers a weight, and a volume takes 250 MB a second.
            self.seconds_to_save = parameters * 12 / 250e6

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # In a short training, or on a slow volume, ten checkpoints would take long: but for the final one, none is
            # written before the training has gone on for twenty times as long as one takes.
            self.stepped = time.monotonic()
            if state.global_step < steps and self.stepped - self.saved < 20 * self.seconds_to_save:
                control.should_save = False

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                if not math.isfinite(logs["loss"]):
                    raise ValueError(
                        f"the training has diverged: the loss at step {state.global_step} is {logs['loss']}; try a "
                        f"lower learning_rate than {options['learning_rate']}"
                    )
                rate = (state.global_step - first_step) / (time.monotonic() - self.started)
                print(
                    f"step {state.global_step}/{steps}  loss {float(logs['loss']):.4f}  "
                    f"{rate * options['batch_size']:.0f} samples/s  "
                    f"{(steps - state.global_step) / rate:.0f} s left",
                    flush=True,
                )

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            with open(os.path.join(folder, f"checkpoint-{state.global_step}", "complete"), "w"):
                print(f"checkpoint at step {state.global_step}", flush=True)
            self.saved = time.monotonic()
            self.seconds_to_save = self.saved - self.stepped

    return Progress()


def run_trainer(model: Any, tokenizer: Any, rows: Any, folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """Trains a model in place with the `Trainer`, going on from the folder's last whole checkpoint.

    Args:
        model: The model.
        tokenizer: Its tokenizer, which pads each batch to its longest row.
        rows: The tokenised rows, as `tokenise` gives them.
        folder: Where checkpoints lie, up to ten in the course of a training; the newest two are kept.
        options: `epochs`, `max_steps` (0 for no cap), `batch_size`, `learning_rate`, `weight_decay`, `warmup_share`,
            `seed`, and `device` and `dtype` as `choose_device` tells them.

    Returns:
        `loss_curve` (list of [step, loss]), `train_loss` (of the last part of the curve), `steps`,
        `samples_per_second` and `resumed_from_step` (0 for a training from the start).

    Raises:
        ValueError: The loss is no number any more.
    """
    import math
    import time

    import transformers

    order = training_order(rows["length"][:], options["epochs"], options["batch_size"], options["seed"])
    if options["max_steps"] > 0:
        order = order[: options["max_steps"] * options["batch_size"]]
    steps = math.ceil(len(order) / options["batch_size"])
    checkpoint = last_checkpoint(folder)
    first_step = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0
    if checkpoint:
        print(f"going on from the checkpoint of step {first_step} of {steps}", flush=True)

    if options["device"] == "cpu":
        # PyTorch's fused attention is the fastest on a GPU; on a CPU its backward pass is slower than plain products.
        model.set_attn_implementation("eager")
        quick_dropout(model)
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=options["batch_size"],
        learning_rate=options["learning_rate"],
        weight_decay=options["weight_decay"],
        warmup_steps=options["warmup_share"],
        optim="adamw_torch_fused",
        bf16=options["dtype"] == "bfloat16",
        use_cpu=options["device"] == "cpu",
        dataloader_pin_memory=options["device"] != "cpu",
        seed=options["seed"],
        logging_steps=max(1, steps // 40),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=max(1, steps // 10),
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # the Trainer would multiply the batch by the node's GPUs, and so take fewer steps
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=rows.select(order),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        callbacks=[progress(folder, steps, first_step, model.num_parameters(), options)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.monotonic() - started
    curve = [[entry["step"], float(entry["loss"])] for entry in trainer.state.log_history if "loss" in entry]
    tail = [loss for _, loss in curve[-max(1, len(curve) // 10) :]]
    return {
        "loss_curve": curve,
        "train_loss": sum(tail) / len(tail) if tail else float("nan"),
        "steps": steps,
        "resumed_from_step": first_step,
        "samples_per_second": max(0, len(order) - first_step * options["batch_size"]) / seconds,
    }


def train_model(
    train: dsl.Input[dsl.Dataset],
    base_model: str,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    max_length: int,
    weight_decay: float,
    warmup_share: float,
    max_train_rows: int,
    max_steps: int,
    seed: int,
    volume_path: str,
    model_name: str,
    run_id: str,
    model: dsl.Output[dsl.Model],
    training: dsl.Output[dsl.Metrics],
) -> None:
    """Fine-tunes an encoder from the Hugging Face hub or a folder.

    Args:
        train: Rows to train on: Parquet with the string columns text and label.
        base_model: Hub id or folder of the encoder to fine-tune.
        epochs: Passes over the rows.
        learning_rate: Peak learning rate; it rises over the warm-up and falls linearly to 0.
        batch_size: Rows a step.
        max_length: Tokens at which a text is cut.
        weight_decay: Weight decay of AdamW.
        warmup_share: Share of the steps in which the learning rate rises.
        max_train_rows: Train on so many rows, chosen at random; 0 for all.
        max_steps: Stop after so many steps; 0 for no cap.
        seed: Seed of the new head, the order of rows and dropout.
        volume_path: Where the volume is mounted; empty where there is none.
        model_name: Name of the model, a DNS-1035 label.
        run_id: The pipeline run's id.
        model: The model as save_pretrained writes it, in safetensors, with its tokenizer.
        training: Loss, samples per second, device and dtype; the file holds the loss curve.
    """
    import hashlib
    import json
    import shutil
    import tempfile

    import pyarrow.parquet
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = run_folder(volume_path, model_name, run_id)
    labels = label_order(pyarrow.parquet.read_table(train.path, columns=["label"])["label"].unique().to_pylist())
    chosen = choose_device()
    print(f"training on {chosen['device']} in {chosen['dtype']}: {chosen['reason']}", flush=True)
    options: dict[str, Any] = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "warmup_share": warmup_share,
        "max_steps": max_steps,
        "seed": seed,
        **chosen,
    }
    limits = {"max_length": max_length, "max_train_rows": max_train_rows, "seed": seed}
    check_parameters(base_model=base_model, **{**options, **limits})
    with open(train.path, "rb") as file:
        inputs = {
            "rows": hashlib.file_digest(file, "sha256").hexdigest(),
            "base_model": base_model_identity(base_model),
            **options,
            **limits,
        }
    checkpoints, lock = checkpoint_folder(volume_path, model_name, run_id, inputs)
    with lock, tempfile.TemporaryDirectory() as cache:
        transformers.set_seed(seed)
        network, tokenizer = load_base_model(base_model, labels, max_length)
        rows = tokenise(train.path, tokenizer, labels, limits, cache)
        result = run_trainer(network, tokenizer, rows, checkpoints, options)
        network.save_pretrained(model.path)
        tokenizer.save_pretrained(model.path)
        facts = {key: value for key, value in result.items() if key != "loss_curve"}
        facts |= {"rows": len(rows), "parameters": network.num_parameters(), **chosen}
        model.metadata.update(base_model=base_model, labels=labels, max_length=max_length, **facts)
        training.metadata.update(facts)
        with open(training.path, "w", encoding="utf-8") as file:
            json.dump({**facts, "loss_curve": result["loss_curve"]}, file, indent=1)
        put_on_volume(model.path, folder, "model")
        put_on_volume(training.path, folder, "training.json")
        shutil.rmtree(checkpoints)
