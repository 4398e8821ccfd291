"""Where an InferenceService is asked, and whether it answers as the offline model does."""

import time
from typing import Any
from urllib.parse import urlsplit

from nlp_pipeline.deploy.cluster import POD_NAMESPACE, ROUTE_SECONDS
from nlp_pipeline.deploy.inference_service import NEXT, InferenceService
from nlp_pipeline.deploy.settings import Target
from nlp_pipeline.errors import PipelineError
from nlp_pipeline.labels import labels_of
from nlp_pipeline.serving.agreement import compare_answers, label_of, require_sameness
from nlp_pipeline.serving.client import ask

# Columns of rows to ask for: `text`, and `label` and `predicted` where they are known.
Rows = dict[str, list[Any]]
# Where there are no labelled rows to ask for.
ANY_TEXT: Rows = {"text": ["a text"]}


def address_of(service: InferenceService, newest: bool, gateway: str) -> tuple[str, dict[str, str]]:
    """Returns the address of a live InferenceService's `:predict`, and the headers that it needs.

    With `newest` the newest revision is meant, whatever its share of the traffic; on Standard what runs beside the
    others, which has a Service of its own, and no route of the gateway's. Without a gateway, which routes by
    Host header, the service itself is asked: by its name in the cluster from a pod, by its outer name from elsewhere.
    """
    path = f"/v1/models/{service.name}:predict"
    if newest and service.canary:
        return f"http://{service.name}-{NEXT}-predictor.{service.namespace}{path}", {}
    component, is_inside = service.component, not gateway and POD_NAMESPACE.exists()
    tagged = [item["url"] for item in component.get("traffic", []) if item.get("tag") == "latest" and item.get("url")]
    if newest and tagged and not service.is_standard:
        # Knative makes a service for each tag, named <tag>-<service>, in the cluster too.
        url = component["address"]["url"].replace("://", "://latest-", 1) if is_inside else tagged[0]
    else:
        inside = service.status.get("address", {}).get("url") if is_inside else None
        url = inside or service.status.get("url") or component["url"]
    headers = {}
    if gateway:
        url, headers = gateway, {"Host": urlsplit(url).netloc}
    return url.rstrip("/") + path, headers


def ask_texts(
    service: InferenceService, newest: bool, target: Target, texts: list[str], seconds: float = ROUTE_SECONDS
) -> tuple[list[Any], float]:
    """Asks a live InferenceService, or its newest revision, for texts, one by one.

    While its route comes up, each is asked again, for so many seconds. Returns the labels in the texts' order, and the
    median of the requests' milliseconds.
    """
    import httpx
    import tenacity

    url, headers = address_of(service, newest, target.settings.gateway)
    took: list[float] = []

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(ConnectionError),
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_fixed(1),
        reraise=True,
    )
    def ask_text(text: str) -> Any:
        began = time.perf_counter()
        label = label_of(ask(client, url, [text], target.labels)[0])
        took.append(1000 * (time.perf_counter() - began))
        return label

    # A Service's own address is the cluster's, where no proxy of the environment leads.
    is_service = f"-predictor.{service.namespace}/" in url
    reach = {"transport": target.transport, "trust_env": False} if is_service else {}
    with httpx.Client(timeout=60, headers={**headers, **target.headers}, **reach) as client:
        try:
            labels = [ask_text(text) for text in texts]
        except ConnectionError as error:
            host = f" (Host: {headers['Host']})" if headers else ""
            raise PipelineError(f"{error}{host}, though it is ready: no way to the model") from None
    return labels, sorted(took)[len(took) // 2]


def check_answers(service: InferenceService, newest: bool, target: Target, rows: Rows) -> dict[str, float]:
    """Asks a live InferenceService, or its newest revision, and holds its answers against those known of the rows.

    Where the rows are not labelled, any of the model's labels is right; where there are none, nothing is asked. Returns
    `p50_ms` and, where rows are labelled, `rows`, `agreement`, `accuracy`, `offline_accuracy`.
    """
    if not rows:
        return {}
    labels, p50_ms = ask_texts(service, newest, target, rows["text"])
    figures = {"p50_ms": p50_ms}
    if "predicted" in rows:
        figures = compare_answers(labels, rows["predicted"], rows["label"]) | figures
        print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
        require_sameness(figures, target.limits)
    elif target.labels:
        for label in labels:
            if unknown := {*labels_of(label)} - {*target.labels}:
                raise PipelineError(f"it answers {min(unknown)!r}, which is none of {target.labels}")
    return figures
