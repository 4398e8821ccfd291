"""From a trained model to a release, immutable and named by its content."""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nlp_pipeline.publishing import publish
from nlp_pipeline.release import Release, seal
from nlp_pipeline.serving.agreement import spread_rows
from nlp_pipeline.steps.archive_model.export import export_model
from nlp_pipeline.steps.archive_model.packing import build_release, pack_model
from nlp_pipeline.steps.archive_model.precision import candidates, choose_precision, try_archive
from nlp_pipeline.steps.archive_model.report_section import add_to_report, precision_section
from nlp_pipeline.steps.archive_model.settings import ArchiveSettings
from nlp_pipeline.volume import Run

PACKAGES = ["torch", "transformers", "onnx", "onnxruntime", "tokenizers"]


def archive_model(
    model: Path,
    metrics: Path,
    predictions: Path,
    evaluation_report: Path,
    folder: Path,
    report: Path,
    *,
    settings: ArchiveSettings,
    max_length: int,
    min_agreement: float,
    serving_gpus: int,
    trained: dict[str, Any],
    run: Run,
) -> dict[str, Any]:
    """Packs a model as a TorchServe archive and a Hugging Face folder, and publishes them as a release.

    It tries the archive in each number format on evaluation rows and takes the fastest that answers as the model does.

    Args:
        model: The model and its tokenizer as save_pretrained writes them.
        metrics: The metrics of `evaluate_model`, for the release's record.
        predictions: What the offline model said: Parquet with text, label and predicted label.
        evaluation_report: The report of `evaluate_model`.
        folder: The release to write.
        report: The report to write, with a section on the number format.
        settings: How the number format is chosen.
        max_length: Tokens at which a text is cut.
        min_agreement: Least share of rows on which int8 must give the offline model's label to be chosen.
        serving_gpus: GPUs that the archive is served with.
        trained: How the model was trained, for the release's record; `source` and `source_sha256` are of its rows.
        run: The run.

    Returns:
        The `digest` of the release; the folder where it is published as `release`; its `archive`, and the size of that
        as `archive_bytes`; the `precision` chosen.
    """
    import transformers

    transformers.logging.disable_progress_bar()
    run.prepare_folder()
    rows = spread_rows(predictions, 2000)
    names, reason = candidates(settings.precision, serving_gpus)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        full = scratch / "fp32.onnx"
        export_model(model, full)
        trials: dict[str, dict[str, Any]] = {}
        for name in names:
            pack_model(model, full, scratch / name, name, max_length)
            trials[name] = try_archive(scratch / name, rows)
        chosen = names[0]
        if not reason:
            chosen, reason = choose_precision(trials, settings.max_quantisation_drop, min_agreement)
        print(f"{chosen}: {reason}", flush=True)
        # On a GPU, requests share model calls; on a CPU each CPU takes a request.
        build_release(model, scratch / chosen, folder, run.model_name, batch_size=32 if serving_gpus else 8)
    precision = {"chosen": chosen, "reason": reason, "tried": trials}
    page = add_to_report(evaluation_report.read_text(encoding="utf-8"), precision_section(precision))
    report.write_text(page, encoding="utf-8")
    run.keep(report, "report.html")
    parameters = {"precision": settings.precision, "max_length": max_length, **trained}
    source, source_sha256 = (parameters.pop(name, None) for name in ("source", "source_sha256"))
    evaluated = json.loads(metrics.read_text(encoding="utf-8"))
    record = Release(
        model_name=run.model_name,
        run_id=run.run_id,
        labels=[scores["label"] for scores in evaluated["per_class"]],
        metrics={name: value for name, value in evaluated.items() if not isinstance(value, list)},
        parameters=parameters,
        precision=precision,
        packages={name: version(name) for name in PACKAGES},
        source=source,
        source_sha256=source_sha256,
    )
    digest = seal(folder, record).digest
    published = publish(folder, run.model_folder, digest)
    archive = published / "model-store" / f"{run.model_name}.mar"
    size = archive.stat().st_size
    print(f"release {published}, archive of {size / 1e6:.1f} MB in {chosen}", flush=True)
    return {
        "digest": digest,
        "release": str(published),
        "archive": str(archive),
        "archive_bytes": size,
        "precision": chosen,
    }
