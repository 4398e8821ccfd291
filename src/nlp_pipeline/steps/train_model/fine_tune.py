"""The step itself: from labelled rows to a classifier."""

import json
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from nlp_pipeline.labels import count_labels, label_order
from nlp_pipeline.steps.classes import MULTIPLE, SINGLE, Classes, choose_thresholds
from nlp_pipeline.steps.evaluate_model.prediction import predict
from nlp_pipeline.steps.parquet import list_parts, read_batches
from nlp_pipeline.steps.train_model.base_model import load_base_model, model_identity, require_servable
from nlp_pipeline.steps.train_model.device import choose_device
from nlp_pipeline.steps.train_model.rows import hold_out, tokenise
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.steps.train_model.trainer import checkpoint_folder, last_checkpoint, train
from nlp_pipeline.steps.training_data import record_training_data
from nlp_pipeline.volume import Run, file_sha256


def fine_tune(
    rows: str | Path,
    model: str | Path,
    settings: TrainSettings,
    seed: int,
    run: Run,
    source: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tunes an encoder, going on from the last checkpoint where the same training was killed.

    The folder `model` gets the weights in safetensors, the tokenizer, config.json with the labels, and training.json
    with the facts that are returned, the loss curve and the rows' `source`; and what
    `record_training_data` says of the rows. The run's folder on the volume gets copies.

    Where `torchrun` started several processes, each calls this; they train one model, and the first writes and returns.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run.prepare_folder()
    count, counts = 0, Counter[str]()
    for batch in read_batches(rows, "label"):
        count += len(batch["label"])
        counts.update(count_labels(batch["label"]))
    is_list = isinstance(batch["label"][0], list)
    labels, task = label_order(counts), MULTIPLE if is_list else SINGLE
    held = hold_out(rows, counts) if is_list else {"number": []}
    count -= len(held["number"])
    device = choose_device()
    # The first process tokenises while the others wait, for more than the half hour that is torch's own patience.
    state = PartialState(cpu=device.device == "cpu", timeout=timedelta(hours=2))
    print(f"training on {device.device} in {device.dtype}: {device.reason}", flush=True)
    size = max(1, settings.batch_size // state.num_processes) * state.num_processes
    if size != settings.batch_size:
        print(f"batch_size is {size}: {state.num_processes} processes can't share {settings.batch_size}", flush=True)
        settings = replace(settings, batch_size=size)
    digests = [file_sha256(part) for part in list_parts(rows)]
    inputs = [digests, model_identity(settings.base_model), asdict(settings), seed, asdict(device)]
    with checkpoint_folder(run, inputs) as checkpoints, tempfile.TemporaryDirectory() as cache:
        (cache,) = broadcast_object_list([cache])
        transformers.set_seed(seed)
        network, tokenizer = load_base_model(settings.base_model, labels, settings.max_length, task)
        if settings.long_texts != getattr(network.config, "long_texts", "cut"):
            network.config.long_texts = settings.long_texts
        with state.local_main_process_first():
            if state.is_main_process and not last_checkpoint(checkpoints):
                require_servable(settings.base_model, network, tokenizer, settings.max_length)
            tokenised = tokenise(rows, tokenizer, labels, settings, seed, cache, held["number"])
        result = train(network, tokenizer, tokenised, settings, seed, device, checkpoints)
        if not state.is_main_process:
            return {}
        tokenizer.model_max_length = settings.max_length  # other servers cut texts there
        network.save_pretrained(model)
        tokenizer.save_pretrained(model)
        if is_list:
            probabilities = predict(model, held["text"], settings.max_length)
            thresholds = choose_thresholds(Classes(labels).encode(held["label"]), probabilities)
            network.config.thresholds = result["thresholds"] = thresholds
            network.config.save_pretrained(model)
            print(f"thresholds chosen on {len(probabilities)} rows that were held out", flush=True)
        result |= {
            "base_model": settings.base_model,
            "parameters": network.num_parameters(),
            "rows": min(count, settings.max_train_rows or count),
        }
        if settings.long_texts != "cut":
            result["long_texts"] = settings.long_texts
        result |= {**asdict(device), "processes": state.num_processes}
        record_training_data(rows, Path(model), tokenizer)
        training = Path(model, "training.json")
        training.write_text(json.dumps(result | (source or {}), indent=1), encoding="utf-8")
        run.keep(model, "model")
        run.keep(training, "training.json")
    return {name: value for name, value in result.items() if not isinstance(value, list)}
