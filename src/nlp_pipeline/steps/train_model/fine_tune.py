"""The step itself: from labelled rows to a classifier."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet
import transformers

from nlp_pipeline.labels import label_order
from nlp_pipeline.steps.train_model.base_model import load_base_model, model_identity, require_servable
from nlp_pipeline.steps.train_model.device import choose_device
from nlp_pipeline.steps.train_model.rows import tokenise
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
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run.prepare_folder()
    labels = label_order(pyarrow.parquet.read_table(rows, columns=["label"])["label"].unique().to_pylist())
    device = choose_device()
    print(f"training on {device.device} in {device.dtype}: {device.reason}", flush=True)
    inputs = [file_sha256(rows), model_identity(settings.base_model), asdict(settings), seed, asdict(device)]
    with checkpoint_folder(run, inputs) as checkpoints, tempfile.TemporaryDirectory() as cache:
        transformers.set_seed(seed)
        network, tokenizer = load_base_model(settings.base_model, labels, settings.max_length)
        if not last_checkpoint(checkpoints):
            require_servable(settings.base_model, network, tokenizer, settings.max_length)
        tokenised = tokenise(rows, tokenizer, labels, settings, seed, cache)
        result = train(network, tokenizer, tokenised, settings, seed, device, checkpoints)
        tokenizer.model_max_length = settings.max_length  # other servers cut texts there
        network.save_pretrained(model)
        tokenizer.save_pretrained(model)
        result |= {"base_model": settings.base_model, "parameters": network.num_parameters(), "rows": len(tokenised)}
        result |= asdict(device)
        record_training_data(rows, Path(model), tokenizer)
        training = Path(model, "training.json")
        training.write_text(json.dumps(result | (source or {}), indent=1), encoding="utf-8")
        run.keep(model, "model")
        run.keep(training, "training.json")
    return {name: value for name, value in result.items() if name != "loss_curve"}
