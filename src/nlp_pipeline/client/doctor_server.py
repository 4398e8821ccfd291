"""The doctor's checks of Kubeflow Pipelines, of the object store, of the clock, and of the image's name."""

import contextlib
import importlib.metadata
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from nlp_pipeline.client.artifacts_plan import DEFAULT_ROOT, NAMESPACE_ROOT, parse_root
from nlp_pipeline.client.calls import NotFoundError
from nlp_pipeline.client.connection import Connection, explain, tls_context
from nlp_pipeline.client.doctor_cluster import may_make_runs
from nlp_pipeline.client.doctor_findings import LEAST, OPTIONAL_SECRETS, Findings
from nlp_pipeline.client.object_store import AlteredError, open_store
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import PREFIX

MAX_SKEW = 60


def ask(found: Findings, address: str, **headers: str) -> httpx.Response:
    """Asks a server, and notes what its clock says.

    Raises:
        UsageError: The settings are wrong.
        PipelineError: It can't be reached.
    """
    local = urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1")
    try:
        begun = time.time()
        answer = httpx.get(
            address, headers=headers, verify=tls_context(found.settings), timeout=30, trust_env=not local
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise explain(found.settings.host, error) from None
    with contextlib.suppress(KeyError, ValueError, TypeError):
        # The header has whole seconds.
        told = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
        found.skew = told - (begun + time.time()) / 2
    return answer


def check_server(found: Findings) -> None:
    """Looks whether a server answers at the host, whatever it answers."""
    host = found.settings.host
    if not host:
        found.add("server", False, "no host is set", f"set {PREFIX}HOST, as in https://kubeflow.example.com")
        return
    if not re.fullmatch(r"https?://[^@\s]+", host):
        found.add("server", False, "the host is no address", "write it as in https://kubeflow.example.com")
        return
    try:
        ask(found, host)
    except PipelineError as error:
        remedy = "" if isinstance(error, UsageError) else "is --host right, and the server up?"
        found.add("server", False, str(error), remedy)
        return
    shown = f"{urlsplit(host).hostname} answers"
    warning = ", and whether it is the right one is not verified (--insecure)" if found.settings.insecure else ""
    found.add("server", True, shown + warning)


def check_sign_in(found: Findings) -> None:
    """Looks whether Kubeflow Pipelines lets the user in."""
    if not found.checks[-1].ok:
        found.add("sign-in", None, "the server does not answer")
        return
    settings = found.settings
    try:
        # That no namespace is set is told by the next check.
        connection = Connection(settings.model_copy(update={"namespace": settings.namespace or "?"}))
        answer = ask(found, f"{connection.url}/apis/v2beta1/healthz", **connection.sign_in.headers)
        health = answer.json()
    except PipelineError as error:
        found.add("sign-in", False, str(error))
        return
    except ValueError:
        found.add("sign-in", False, "Kubeflow Pipelines' health is a page, not an answer", "sign in anew")
        return
    connection.namespace = settings.namespace
    found.connection, found.health = connection, health if isinstance(health, dict) else {}
    found.add("sign-in", True, f"Kubeflow Pipelines answers {connection.sign_in.how}")


def check_namespace(found: Findings) -> None:
    """Looks whether the user may see the namespace, and whether the experiment takes runs."""
    connection = found.connection
    if connection is None:
        for name in ("namespace", "experiment"):
            found.add(name, None, "not signed in")
        return
    namespace, name = found.settings.namespace, found.settings.experiment
    if connection.multi_user and not namespace:
        remedy = f"give --namespace NAME, or set {PREFIX}NAMESPACE: the dashboard shows it at its top"
        found.add("namespace", False, "this Kubeflow has several users, and no namespace is set", remedy)
        found.add("experiment", None, "the namespace is not known")
        return
    try:
        listing = connection.experiments.experiment_service_list_experiments
        experiments = list(connection.every("listing experiments", listing, "experiments", namespace=namespace))
    except PipelineError as error:
        remedy = "ask the profile's owner to add you as a contributor" if ": 403:" in str(error) else ""
        found.add("namespace", False, f"{namespace or 'Kubeflow'}: {error}", remedy)
        found.add("experiment", None, "the namespace's experiments can't be listed")
        return
    shown = f"{namespace} may be used" if connection.multi_user else "there is but one user, and none is needed"
    found.add("namespace", True, shown)
    same = [one for one in experiments if (one.display_name or "").casefold() == name.casefold()]
    check_experiment(found, same[0] if same else None)


def check_experiment(found: Findings, experiment: Any) -> None:
    """Looks whether the experiment takes runs, as far as that is known without making one."""
    name = found.settings.experiment
    there = f"{name} is there" if experiment else f"{name} would be made"
    if experiment and str(experiment.storage_state) == "ARCHIVED":
        remedy = "restore it in the dashboard, or give --experiment NAME"
        found.add("experiment", False, f"{name} is archived, and takes no runs", remedy)
    elif found.connection and not found.connection.multi_user:
        found.add("experiment", True, there)
    else:
        allowed, why = may_make_runs(found, not experiment)
        remedy = f"ask the owner of profile {found.settings.namespace} for the role kubeflow-edit"
        found.add("experiment", allowed, f"{there}; {why}", remedy if allowed is False else "")


def check_version(found: Findings) -> None:
    """Looks whether the server knows what the pipeline needs."""
    if found.connection is None:
        found.add("version", None, "not signed in")
        return
    sdk, told = importlib.metadata.version("kfp"), found.told_version or "nothing"
    version = found.version
    if version is None:
        commit = str(found.health.get("commit_sha", ""))[:12]
        what = f"the server tells {told!r}" + (f", commit {commit}" if commit else "")
        found.add("version", None, f"{what} for its version; Kubeflow Pipelines 2.5 or later is needed")
    elif version < LEAST:
        remedy = "have it upgraded to 2.5 or later: older ones take no parameter for the names of claims and Secrets"
        found.add("version", False, f"Kubeflow Pipelines {told}, kfp {sdk}", remedy)
    elif version < OPTIONAL_SECRETS:
        detail = f"Kubeflow Pipelines {told}, kfp {sdk}; before 2.15 a Secret must exist even where none is needed"
        found.add("version", True, detail)
    else:
        found.add("version", True, f"Kubeflow Pipelines {told}, kfp {sdk}")


def check_clock(found: Findings) -> None:
    """Looks whether this machine and the server agree on the time: tokens and signatures are for a time."""
    if found.skew is None:
        why = "the server tells no time" if found.checks[0].ok else "the server does not answer"
        found.add("clock", None, why, required=False)
    elif abs(found.skew) > MAX_SKEW:
        direction = "behind" if found.skew > 0 else "ahead of"
        detail = f"this machine's clock is {abs(found.skew):.0f} s {direction} the server's"
        found.add("clock", False, detail, "sudo timedatectl set-ntp true", required=False)
    else:
        found.add("clock", True, "within a minute of the server's", required=False)


def check_object_store(found: Findings) -> None:
    """Looks whether the object store of the runs' artifacts can be read from here."""
    settings = found.settings
    name = "object store"
    if not settings.s3_endpoint:
        found.add(name, None, f"{PREFIX}S3_ENDPOINT is not set; only --download needs it", required=False)
        return
    several = settings.namespace and not (found.connection and not found.connection.multi_user)
    roots = [*([NAMESPACE_ROOT.format(settings.namespace)] if several else []), DEFAULT_ROOT]
    failure = ""
    for root in roots:
        bucket, prefix = parse_root(root)
        try:
            store = open_store(settings)
            listing = store.client.list_objects
            store.call(f"listing {root}", lambda: next(iter(listing(bucket, prefix=prefix)), None))  # noqa: B023
        except (PipelineError, AlteredError) as error:
            failure = failure or str(error)
            if not isinstance(error, (UsageError, NotFoundError)):
                break
        else:
            found.add(name, True, f"{store.address} shows {root}", required=False)
            return
    found.add(name, False, failure, required=False)


def check_image_name(found: Findings) -> None:
    """Looks at the image's name; that it can be pulled is known on the nodes alone."""
    from nlp_pipeline.pipeline.compiling import check_image

    image = found.settings.image
    if not image:
        found.add("image", True, "none is set: each step installs its packages when it starts", required=False)
        return
    try:
        check_image(image)
    except UsageError as error:
        found.add("image", False, str(error))
        return
    last = image.rpartition("/")[2]
    tag = "" if "@" in last else last.partition(":")[2] or "latest"
    if tag == "latest":
        detail = f"{image} is whatever is newest when a pod starts, so that a run can't be repeated"
        found.add("image", False, detail, "give it a tag of its own", required=False)
    else:
        found.add("image", True, f"{image} is a sound name; whether nodes can pull it shows only there")
