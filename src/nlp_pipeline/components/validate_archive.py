"""`validate_archive`: nothing is served that was not asked, in the real server, for what the model says offline."""

from typing import Any

from kfp import dsl

from nlp_pipeline.components.agreement import compare_answers, require_agreement, spread_rows
from nlp_pipeline.components.ranges import check_parameters
from nlp_pipeline.components.volume import model_folder, put_on_volume, run_folder
from nlp_pipeline.serving.client import replay
from nlp_pipeline.serving.torchserve import log_tail, start_torchserve, stop_torchserve, wait_until_ready


def ask_torchserve(release: str, model_name: str, texts: list[str], timeout: float) -> dict[str, Any]:
    """Boots TorchServe on a release, asks it for texts and ends it, whatever happens.

    Args:
        release: The release's folder.
        model_name: The model's name.
        texts: The texts.
        timeout: Seconds until the server must be ready.

    Returns:
        `labels` in the texts' order; `p50_ms` and `p99_ms` of one client's requests; `requests_per_second` of eight
        clients; `seconds_to_ready`.

    Raises:
        RuntimeError: The server did not start; the end of its log is printed.
        ConnectionError: It did not answer; the end of its log is printed.
        TimeoutError: The server was not ready in time; the end of its log is printed.
    """
    import tempfile
    import time

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        began = time.monotonic()
        process, url, management = start_torchserve(release, folder)
        try:
            wait_until_ready(process, folder, management, model_name, timeout)
            seconds_to_ready = time.monotonic() - began
            address = f"{url}/v1/models/{model_name}:predict"
            here: dict[str, Any] = {"trust_env": False}  # proxies of the environment are for other machines
            labels, latencies, _ = replay(address, texts, clients=1, labels=[], options=here)
            _, _, seconds = replay(address, texts, clients=8, labels=[], options=here)
        except BaseException:
            print(f"the end of TorchServe's log:\n{log_tail(folder)}", flush=True)
            raise
        finally:
            stop_torchserve(process)
    ordered = sorted(latencies)
    return {
        "labels": labels,
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        "requests_per_second": len(texts) / seconds,
        "seconds_to_ready": seconds_to_ready,
    }


def validate_archive(
    release: dsl.Input[dsl.Model],
    predictions: dsl.Input[dsl.Dataset],
    validation_rows: int,
    min_agreement: float,
    max_accuracy_drop: float,
    volume_path: str,
    model_name: str,
    run_id: str,
    validation: dsl.Output[dsl.Metrics],
) -> None:
    """Serves a release with TorchServe and holds its answers against the offline model's.

    Args:
        release: The release.
        predictions: What the offline model said: Parquet with text, label and predicted label.
        validation_rows: Ask for so many rows, spread evenly; 0 for all.
        min_agreement: Least share of rows on which both must give the same label.
        max_accuracy_drop: By how much the served model's accuracy may be lower, as a fraction.
        volume_path: Where the volume is mounted; empty where there is none.
        model_name: Name of the model, a DNS-1035 label.
        run_id: The pipeline run's id.
        validation: Agreement, accuracy, latency in milliseconds and requests per second.
    """
    import json
    import tempfile

    folder = run_folder(volume_path, model_name, run_id)
    limits = {"min_agreement": min_agreement, "max_accuracy_drop": max_accuracy_drop}
    check_parameters(validation_rows=validation_rows, **limits)
    rows = spread_rows(predictions.path, validation_rows)
    served = ask_torchserve(release.path, model_name, rows["text"], timeout=300)
    compared = compare_answers(served.pop("labels"), rows["predicted"], rows["label"])
    facts = {**compared, **served}
    validation.metadata.update(facts)
    with open(validation.path, "w", encoding="utf-8") as file:
        json.dump(facts, file, indent=1)
    put_on_volume(validation.path, folder, "validation.json")
    print(", ".join(f"{key} {value:.4g}" for key, value in facts.items()), flush=True)
    require_agreement(compared, **limits)
    # What --serve takes: the release that was found good last.
    with tempfile.NamedTemporaryFile("w", suffix=".json") as latest:
        json.dump({"digest": release.metadata["digest"], "run_id": run_id}, latest)
        latest.flush()
        put_on_volume(latest.name, model_folder(volume_path, model_name), "latest.json")
