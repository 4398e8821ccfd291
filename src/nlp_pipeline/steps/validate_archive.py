"""Nothing is served that was not asked, in the real server, for what the model says offline."""

import json
import time
from pathlib import Path
from typing import Any

from nlp_pipeline.serving.agreement import SERVED, AgreementLimits, compare_answers, require_agreement, spread_rows
from nlp_pipeline.serving.client import replay
from nlp_pipeline.serving.torchserve import serving
from nlp_pipeline.volume import Run, put


def ask_torchserve(
    release: Path, model_name: str, texts: list[str], timeout: float = 300
) -> tuple[list[Any], dict[str, float]]:
    """Boots TorchServe on a release, and returns its labels of texts; latencies of one client, the rate of eight."""
    began = time.monotonic()
    with serving(release, model_name, timeout=timeout) as server:
        seconds_to_ready = time.monotonic() - began
        labels, latencies, _ = replay(server.address, texts, clients=1)
        _, _, seconds = replay(server.address, texts, clients=8)
    latencies.sort()
    return labels, {
        "p50_ms": 1000 * latencies[len(texts) // 2],
        "p99_ms": 1000 * latencies[len(texts) * 99 // 100],
        "requests_per_second": len(texts) / seconds,
        "seconds_to_ready": seconds_to_ready,
    }


def validate_archive(
    release: Path,
    digest: str,
    predictions: Path,
    validation_rows: int,
    limits: AgreementLimits,
    run: Run,
    validation: Path,
) -> dict[str, float]:
    """Serves a release with TorchServe; a PipelineError where it does not answer as the offline model did.

    It is asked for `validation_rows` of the predictions, spread evenly; 0 for all. A release that passes becomes the
    model's latest, which is what `--serve` takes, and its answers are kept for asking the endpoint. The JSON file
    `validation` gets what is returned.
    """
    import pyarrow.parquet

    run.prepare_folder()
    rows = spread_rows(predictions, validation_rows)
    labels, measured = ask_torchserve(release, run.model_name, rows["text"])
    compared = compare_answers(labels, rows["predicted"], rows["label"])
    facts = compared | measured
    validation.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    run.keep(validation, "validation.json")
    print(", ".join(f"{name} {value:.4g}" for name, value in facts.items()), flush=True)
    require_agreement(compared, limits)
    if run.model_folder:
        served = validation.with_name(SERVED)
        pyarrow.parquet.write_table(pyarrow.table(rows | {"predicted": labels}), served)
        run.keep(served, SERVED)
        latest = validation.with_name("latest.json")
        latest.write_text(json.dumps({"digest": digest, "run_id": run.run_id}), encoding="utf-8")
        put(latest, run.model_folder / latest.name)
    return facts
