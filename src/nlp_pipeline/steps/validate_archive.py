"""Nothing is served that was not asked, in the real server, for what the model says offline."""

import json
import time
from pathlib import Path

from nlp_pipeline.serving.agreement import AgreementLimits, compare_answers, require_agreement, spread_rows
from nlp_pipeline.serving.client import replay
from nlp_pipeline.serving.torchserve import serving
from nlp_pipeline.volume import Run, put


def ask_torchserve(
    release: Path, model_name: str, texts: list[str], timeout: float = 300
) -> tuple[list[str], dict[str, float]]:
    """Boots TorchServe on a release, asks it for texts, and ends it.

    Returns:
        The labels in the texts' order; and `p50_ms` and `p99_ms` of one client's requests, `requests_per_second` of
        eight clients, `seconds_to_ready`.
    """
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
    """Serves a release with TorchServe and holds its answers against the offline model's.

    A release that passes becomes the model's latest, which is what `--serve` takes.

    It is asked for `validation_rows` of the predictions, spread evenly; 0 for all.

    Returns:
        What the JSON file `validation` holds: agreement, accuracy, latency in milliseconds, requests per second.

    Raises:
        PipelineError: The server did not start, or does not answer as the offline model does.
    """
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
        latest = validation.with_name("latest.json")
        latest.write_text(json.dumps({"digest": digest, "run_id": run.run_id}), encoding="utf-8")
        put(latest, run.model_folder / latest.name)
    return facts
