"""The ranges of the pipeline's parameters, in one place.

Each step checks the parameters it takes, and the command line checks all of them before a run is started.
"""

from typing import Any, Callable


def check_parameters(**values: Any) -> None:
    """Makes sure that parameters are in their ranges.

    Args:
        **values: Parameters by their names; those that may hold anything are passed over.

    Raises:
        ValueError: One is not; the message names it, its value and what it may be.
    """
    import re

    share = (lambda value: 0 <= value <= 1, "a share from 0 to 1, such as 0.05 for 5%")
    count = (lambda value: value >= 0, "0 for all, or a number above")
    cpus = (lambda value: re.fullmatch(r"[0-9]+(\.[0-9]+)?|[0-9]+m", value) is not None, "as in 4 or 500m")
    memory = (lambda value: re.fullmatch(r"[0-9]+[KMGT]i?", value) is not None, "as in 12Gi")
    name = "lower-case letters, digits and hyphens, a letter first, at most 63 characters, as in 'movie-reviews'"
    dns = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"  # a DNS-1123 subdomain, nearly
    secret = (lambda value: re.fullmatch(dns, value) is not None, "the name of a Secret, which need not exist")
    ranges: dict[str, tuple[Callable[[Any], bool], str]] = {
        "volume_path": (lambda value: value.strip() != "", "the folder where the volume is mounted"),
        "volume_claim": (lambda value: re.fullmatch(dns, value) is not None, "the name of a PersistentVolumeClaim"),
        "train_cpu": cpus,
        "train_memory": memory,
        "train_gpus": (lambda value: value in ("0", "1"), "0 or 1"),
        "train_data": (lambda value: value.strip() != "", "the path or URL of a CSV, TSV, JSONL or Parquet file"),
        "text_column": (lambda value: value != "", "the name of a column"),
        "label_column": (lambda value: value != "", "the name of a column"),
        "evaluation_share": (lambda value: 0 < value < 1, "a share between 0 and 1, such as 0.2"),
        "max_bad_share": share,
        # It names the InferenceService too, and so must be a DNS-1035 label.
        "model_name": (lambda value: re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", value) is not None, name),
        "base_model": (lambda value: value.strip() != "", "a Hugging Face hub id or a folder"),
        "epochs": (lambda value: 0 < value < float("inf"), "above 0"),
        "learning_rate": (lambda value: 0 < value < 1, "between 0 and 1, such as 5e-5"),
        "batch_size": (lambda value: value >= 1, "1 or more"),
        "max_length": (lambda value: value >= 1, "1 or more, and no more than the encoder reads"),
        "weight_decay": (lambda value: 0 <= value < 1, "from 0 to below 1"),
        "warmup_share": (lambda value: 0 <= value < 1, "from 0 to below 1"),
        "max_train_rows": count,
        "max_steps": count,
        "seed": (lambda value: 0 <= value < 2**32, "from 0 to 4294967295"),
        "min_accuracy": share,
        "precision": (lambda value: value in ("auto", "int8", "fp32"), "auto, int8 or fp32"),
        "max_quantisation_drop": share,
        "validation_rows": count,
        "min_agreement": share,
        "max_accuracy_drop": share,
        "namespace": (
            lambda value: re.fullmatch(r"|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value) is not None,
            "the name of a namespace, or empty for the pod's own",
        ),
        "s3_secret": secret,
        "hub_secret": secret,
        "service_account": (
            lambda value: re.fullmatch(f"|{dns}", value) is not None,
            "the name of a service account, or empty",
        ),
        "runtime_name": (
            lambda value: re.fullmatch(f"|{dns}", value) is not None,
            "the name of a ServingRuntime, or empty",
        ),
        "serving_runtime": (lambda value: value in ("torchserve", "huggingface"), "torchserve or huggingface"),
        "model_store": (lambda value: value == "" or value.startswith("s3://"), "s3://bucket/folder, or empty for pvc"),
        "deployment_mode": (lambda value: value in ("", "Knative", "Standard"), "Knative, Standard or empty"),
        "min_replicas": count,
        "max_replicas": count,
        "scale_metric": (
            lambda value: value in ("", "concurrency", "rps", "cpu", "memory"),
            "concurrency, rps, cpu, memory or empty",
        ),
        "scale_target": (lambda value: value >= 0, "0 for KServe's own, or a number above"),
        "serving_cpu": cpus,
        "serving_memory": memory,
        "serving_gpus": (lambda value: value >= 0, "0 or more"),
        "canary_percent": (lambda value: 0 <= value < 100, "from 0 for no canary share to 99"),
        "canary_minutes": (lambda value: 0 <= value < float("inf"), "0 or more"),
        "deploy_timeout": (lambda value: value >= 1, "1 or more seconds"),
        "endpoint_rows": (lambda value: value >= 1, "1 or more"),
        "first_failure": (lambda value: value in ("stop", "delete"), "stop or delete"),
        "gateway": (
            lambda value: re.fullmatch(r"|https?://[^/\s]+/?", value) is not None,
            "http://host:port, https://host or empty",
        ),
    }
    for key, value in values.items():
        if key in ranges and not ranges[key][0](value):
            raise ValueError(f"{key} is {value!r}: it must be {ranges[key][1]}")
