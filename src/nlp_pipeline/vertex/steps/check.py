"""`check_vertex_endpoint`: a new version is asked; it gets all of the traffic, or what was before comes back.

Which of the versions that share an endpoint answers a request is Vertex AI's choice, by their shares of the traffic.
Each answer names the deployed model that gave it, so the same request is sent until the one that is meant has answered.
"""

import os
import signal
import sys
from time import monotonic, perf_counter, sleep
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value

from nlp_pipeline.errors import PipelineError, RolledBackError, TimedOutError
from nlp_pipeline.serving.agreement import AgreementLimits, compare_answers, label_of, require_agreement, spread_rows
from nlp_pipeline.vertex.steps.api import Api
from nlp_pipeline.vertex.steps.plan import scale_traffic

# Between a failure and the next request; an answer of another version is no failure.
WAIT_SECONDS = 2.0
# Texts a request, and how much of each is sent: Vertex AI takes 1.5 MB a request, and JSON may have six bytes a sign.
BATCH, LENGTH = 5, 48_000


def check_endpoint(
    endpoint: str,
    version: str,
    former: dict[str, int],
    predictions: str,
    rows: int,
    timeout: float,
    limits: AgreementLimits,
) -> dict[str, Any]:
    """Asks a new version for real predictions, and gives it all of the traffic; or puts back what was, and fails.

    The former versions are undeployed where it is good, itself where it is not: each costs by the hour.

    Args:
        endpoint: Its resource name.
        version: The model's resource name with the new version, `...@VERSION`.
        former: The endpoint's traffic before the new version came, in percent by deployed models' ids.
        predictions: Parquet with what the offline model said.
        rows: How many of them it is asked for.
        timeout: Seconds within which it must have answered all of them.
        limits: How far its answers may differ.

    Returns:
        For the run's metrics: `endpoint`, `version`, `deployed_model` (its id there), what `compare_answers` returns,
        and `p50_ms` (the median time of its answers, each to at most BATCH texts, in milliseconds).

    Raises:
        RolledBackError: Its answers differ too much or did not come in time, Google refused, or the run was cancelled;
            the message says what was put back.
        PipelineError: The new version is not there; or it serves, and a former one could not be undeployed.
    """
    # A run that is cancelled ends its steps so; without this, the new version would stay where it is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the run was cancelled"))
    asked = spread_rows(predictions, rows)
    _, project, _, location, *_ = endpoint.split("/")
    api = Api(project, location, os.environ.get("VERTEX_ENDPOINT", ""))
    service = api.service("Endpoint")
    live = api.call("reading the endpoint", service.get_endpoint, name=endpoint)
    new = find_deployed(live, version)
    try:
        labels, latencies = ask_version(api, live, new, asked["text"], timeout)
        facts = compare_answers(labels, asked["predicted"], asked["label"])
        facts["p50_ms"] = sorted(latencies)[len(latencies) // 2]
        print(", ".join(f"{name} {value:.4g}" for name, value in facts.items()), flush=True)
        require_agreement(facts, limits)
        change, mask = {"name": endpoint, "traffic_split": {new: 100}}, {"paths": ["traffic_split"]}
        live = api.call("giving it the traffic", service.update_endpoint, endpoint=change, update_mask=mask)
        # The whole way once more, now that all requests go it.
        ask_version(api, live, new, asked["text"][:10], timeout)
    except BaseException as error:  # noqa: BLE001 whatever it is, also that the run is cancelled
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RolledBackError(f"rolled back: {reason}; {roll_back(api, endpoint, new, former)}") from None
    try:
        for item in live.deployed_models:
            if item.id != new:
                request = {"endpoint": endpoint, "deployed_model_id": item.id}
                api.call(f"undeploying version {item.model_version_id}", service.undeploy_model, request=request)
    except PipelineError as error:
        raise PipelineError(f"the new version serves, but what served before still costs: {error}") from None
    try:
        merge = api.service("Model").merge_version_aliases
        api.call("making it the default version", merge, name=version, version_aliases=["default"])
    except PipelineError as error:  # that it serves does not depend on it
        print(f"note: {error}", flush=True)
    print(f"{version} serves at {endpoint}", flush=True)
    return {"endpoint": endpoint, "version": version, "deployed_model": new, **facts}


def find_deployed(endpoint: Any, version: str) -> str:
    """Returns the id by which an endpoint knows a model's version, which must be deployed to it."""
    # A project may be named by its id in one place and by its number in another.
    name = version.partition("/models/")[2]
    for item in endpoint.deployed_models:
        model = item.model.partition("/models/")[2].partition("@")[0]
        if f"{model}@{item.model_version_id}" == name:
            return str(item.id)
    raise PipelineError(f"{version} is not deployed to {endpoint.name}: someone has undeployed it")


def ask_version(
    api: Api, endpoint: Any, deployed: str, texts: list[str], timeout: float
) -> tuple[list[Any], list[float]]:
    """Asks a version, by its deployed model's id, for texts, all of which it must have answered in `timeout` seconds.

    Returns the labels in the texts' order, and the milliseconds of each request that it answered.
    """
    until, problem = monotonic() + timeout, "only other versions answered"
    # An endpoint of its own network name can be asked nowhere else.
    predict = api.service("Prediction", endpoint.dedicated_endpoint_dns).predict
    labels: list[Any] = []
    latencies: list[float] = []
    while len(labels) < len(texts):
        batch = [Value(string_value=text[:LENGTH]) for text in texts[len(labels) : len(labels) + BATCH]]
        request = {"endpoint": endpoint.name, "instances": batch, "retry": None}
        began, answer = perf_counter(), None
        try:
            answer = api.call("asking for predictions", predict, repeat=False, **request)
        except PipelineError as error:
            problem = str(error)  # which version failed is not known
            sleep(WAIT_SECONDS)
        if answer and answer.deployed_model_id == deployed:
            latencies.append(1000 * (perf_counter() - began))
            labels += read_labels(answer, len(batch))
        elif monotonic() > until:
            answered = f"{len(labels)} of {len(texts)} texts within {timeout:g} s"
            raise TimedOutError(f"the new version answered {answered}: {problem}")
    return labels, latencies


def read_labels(answer: Any, count: int) -> list[Any]:
    """Returns the labels of an answer, which must be so many."""
    predictions = MessageToDict(type(answer).pb(answer)).get("predictions", [])
    try:
        labels = [label_of(item) for item in predictions if "labels" in item or float(item["score"]) >= 0]
    except (KeyError, TypeError, ValueError):
        labels = []
    if len(labels) != count:
        raise PipelineError(f"the new version does not answer with a label and a score for each of {count} texts")
    return labels


def roll_back(api: Api, endpoint: str, new: str, former: dict[str, int]) -> str:
    """Gives the traffic back to the former versions and undeploys the new one, in one request; says what was done."""
    service = api.service("Endpoint")
    try:
        live = api.call("reading the endpoint", service.get_endpoint, name=endpoint)
        split = scale_traffic({item.id: former[item.id] for item in live.deployed_models if item.id in former}, 100)
        request = {"endpoint": endpoint, "deployed_model_id": new, "traffic_split": split}
        api.call("undeploying the new version", service.undeploy_model, request=request)
    except PipelineError as error:
        return f"it could not be undone ({error}): see to endpoint {endpoint}, the new version costs and gets traffic"
    if split:
        return "the new version has been undeployed, and the former one has all of the traffic again"
    return "it has been undeployed; nothing served before, and nothing serves now"
