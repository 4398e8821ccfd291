"""From a trained model to a release, immutable and named by its content."""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet

from nlp_pipeline.labels import count_labels
from nlp_pipeline.release import CARD, Release, publish, seal
from nlp_pipeline.serving.agreement import spread_rows
from nlp_pipeline.steps.archive_model.card import write_card
from nlp_pipeline.steps.archive_model.export import export_model
from nlp_pipeline.steps.archive_model.packing import build_release, pack_model
from nlp_pipeline.steps.archive_model.precision import ask_archive, choose_precision, compare, write_report
from nlp_pipeline.steps.archive_model.settings import ArchiveSettings
from nlp_pipeline.steps.training_data import PROFILE, TEXTS
from nlp_pipeline.volume import Run

PACKAGES = ["torch", "transformers", "onnx", "onnxruntime", "tokenizers"]


def archive_model(
    model: Path,
    predictions: Path,
    folder: Path,
    report: Path,
    *,
    settings: ArchiveSettings,
    max_length: int,
    min_agreement: float,
    serving_gpus: int,
    run: Run,
) -> dict[str, Any]:
    """Packs a model as a TorchServe archive and a Hugging Face folder, and publishes them as a release.

    It tries the archive in number formats and takes the fastest that answers as the model does.
    `folder` becomes the release, `report` a page on the number format. How the model was trained, training.json
    beside it, goes into the release's record.
    """
    import transformers

    transformers.logging.disable_progress_bar()
    run.prepare_folder()
    rows = spread_rows(predictions, 2000)
    # Of texts that were trained on, the fewer the more evaluation rows there are.
    others = pyarrow.parquet.read_table(model / TEXTS)["text"].to_pylist()[:: 1 + len(rows["text"]) // 1000]
    with tempfile.TemporaryDirectory() as temporary:
        full = Path(temporary, "fp32.onnx")
        export_model(model, full)
        reference: list[Any] = []

        def attempt(name: str) -> dict[str, Any]:
            folder = full.with_name(name)
            pack_model(model, full, folder, name, max_length)
            labels, speed = ask_archive(folder, rows["text"] + others)
            reference.extend(labels if name == "fp32" else [])
            size = (folder / "model.onnx").stat().st_size / 1e6
            compared = compare(labels, rows, reference[len(rows["text"]) :])
            return compared | {"texts_per_second": speed, "megabytes": size}

        precision = choose_precision(settings, serving_gpus, min_agreement, attempt)
        chosen = precision["chosen"]
        print(f"{chosen}: {precision['reason']}", flush=True)
        # On a GPU, requests share model calls; on a CPU each CPU takes a request.
        packed, batch_size = full.with_name(chosen), 32 if serving_gpus else 8
        build_release(model, packed, folder, run.model_name, batch_size)
        labels = json.loads((packed / "serving.json").read_bytes())["labels"]
        # What it said when it was new, of texts that it had not seen: later answers are held against that.
        profile = json.loads((model / PROFILE).read_bytes()) | {"predicted": count_labels(rows["predicted"])}
        (folder / "huggingface" / PROFILE).write_text(json.dumps(profile, indent=1), encoding="utf-8")
    write_report(precision, report, run)
    trained = json.loads((model / "training.json").read_bytes())
    del trained["loss_curve"]
    metrics = json.loads(pyarrow.parquet.read_schema(predictions).metadata[b"metrics"])
    record = Release(
        model_name=run.model_name,
        run_id=run.run_id,
        labels=labels,
        champion=metrics.pop("champion", {}),
        intervals=metrics.pop("intervals", {}),
        metrics=metrics,
        source=trained.pop("source", None),
        source_sha256=trained.pop("source_sha256", None),
        parameters={"precision": settings.precision, "max_length": max_length, **trained},
        precision=precision,
        packages={name: version(name) for name in PACKAGES},
    )
    write_card(record, folder / CARD)
    digest = seal(folder, record).digest
    published = publish(folder, run.model_folder, digest)
    size = (published / "model-store" / f"{run.model_name}.mar").stat().st_size
    print(f"release {published}, archive of {size / 1e6:.1f} MB in {chosen}", flush=True)
    return {"digest": digest, "release": str(published), "archive_bytes": size, "precision": chosen}
