"""`--download`: a run's artifacts, from the object store of this Kubeflow to a folder."""

import contextlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.connection import connect
from nlp_pipeline.kubeflow.http import trusted
from nlp_pipeline.kubeflow.runs import get_run
from nlp_pipeline.pipeline.parameters import PIPELINES
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.downloads import ANEW, Item, fetch_missing
from nlp_pipeline.settings import PREFIX, Settings, header_value
from nlp_pipeline.storage import ATTEMPTS, is_transient, retrying, s3_client, status_of

DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
# What Kubeflow with several users gives each namespace since KFP 2.15.
NAMESPACE_ROOT = "minio://mlpipeline/private-artifacts/{}/v2/artifacts"
ROOT = re.compile(r"(minio|s3)://([^/?]+)/?([^?]*)(?:\?.*)?")
# A task, perhaps an id, and the artifact's own path.
PATH = re.compile(r"([^/]*)((?:/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=/))?)(.*)", re.DOTALL)
ENDPOINT, ACCESS_KEY, SECRET_KEY, REGION = (
    f"{PREFIX}S3_{name}" for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY", "REGION")
)
FORWARD = (
    "kubectl -n kubeflow port-forward svc/minio-service 9000:9000 (svc/seaweedfs where that is the object store), then "
    f"{ENDPOINT}=http://localhost:9000"
)
SECRET = "the namespace's Secret mlpipeline-minio-artifact has them"  # noqa: S105, the name of a Secret
AMAZON = "https://s3.amazonaws.com"
CHUNK = 1 << 18
ENCRYPTED = ("x-amz-server-side-encryption-aws-kms-key-id", "x-amz-server-side-encryption-customer-algorithm")


def download(settings: Settings, run_id: str, folder: Path, dry_run: bool) -> dict[str, Any]:
    """Downloads a run's artifacts.

    A file that is there whole is not fetched again; one that is not whole is continued where it ended, unless its
    object was altered meanwhile.

    Returns:
        What `fetch_missing` does.

    Raises:
        NotFoundError: The run has no artifacts yet, or the object store does not know their bucket.
        UsageError: There is no such run; its root is neither minio:// nor s3://; the object store is not set, or
            refuses; or a file is in the way.
        PipelineError: Kubeflow or the object store can't be reached, or fails; or a file can't be written.
    """
    connection = connect(settings)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", run_id):
        raise UsageError(f"{run_id!r} is no id of a run: --runs lists them")
    run = get_run(connection, run_id)
    own = run.runtime_config.pipeline_root if run.runtime_config else ""
    of_namespace = [NAMESPACE_ROOT.format(connection.namespace)] if connection.multi_user else []
    roots = [own] if own else [*of_namespace, DEFAULT_ROOT]  # the likeliest first
    parse_root(roots[0])
    store = open_store(settings, amazon=roots[0].startswith("s3://"))
    bucket, prefix, objects = _find_objects(store, run_id, roots)
    about = {"run_id": run_id, "state": run.state or "", "source": f"s3://{bucket}/{prefix}"}
    return fetch_missing(about, plan_files(prefix, objects), folder, partial(_receive, store, bucket), dry_run)


def parse_root(root: str) -> tuple[str, str]:
    """Returns the bucket and the prefix of a pipeline root; what it asks for in its query the settings have."""
    match = ROOT.fullmatch(root)
    if not match:
        raise UsageError(f"pipeline root {root.partition('?')[0]!r}: only minio:// and s3:// can be downloaded from")
    return match[2], f"{match[3].strip('/')}/".lstrip("/")


@dataclass(frozen=True)
class Store:
    """An object store: its address, and its `minio.Minio`."""

    address: str
    client: Any

    def call(self, doing: str, function: Callable[[], Any]) -> Any:
        """Does something with the object store, each time from its start; what may pass by itself is tried again."""
        import minio
        import urllib3

        where = f"{doing}: {self.address}"
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return retrying(doing)(function)()
        except minio.error.S3Error as error:
            raise _refusal(where, error) from None
        except (minio.error.MinioException, SyntaxError, ValueError) as error:
            # Errors of minio and of its XML parser hold the whole answer.
            status = status_of(error)
            if is_transient(error) and status:
                raise PipelineError(f"{where} answered {status} {ATTEMPTS} times: try later") from None
            answer = f"status {status}" if status else "its answer can't be read"
            raise UsageError(f"{where} is no object store ({answer}): check {ENDPOINT}") from None
        except urllib3.exceptions.HTTPError as error:
            # urllib3 begins with the connection object.
            text = " ".join(str(getattr(error, "reason", None) or error).split())
            reason = re.sub(r"^(<[^>]*>|HTTPS?Connection(Pool)?\([^)]*\)): ", "", text) or type(error).__name__
            raise PipelineError(
                f"{where} can't be reached ({reason}): is {ENDPOINT} right? from outside of the cluster: {FORWARD}"
            ) from None

    def list(self, bucket: str, prefix: str) -> list[Any]:
        """Returns the objects below a prefix."""
        listing = partial(self.client.list_objects, bucket, prefix=prefix, recursive=True)
        objects: list[Any] = self.call(f"listing {f's3://{bucket}/{prefix}'!r}", lambda: [*listing()])
        return objects


def _refusal(where: str, error: Any) -> PipelineError:
    code = error.code
    if code in ("NoSuchBucket", "NoSuchKey", "InvalidBucketName"):
        return NotFoundError(f"{where} has it not ({code}): is {ENDPOINT} that of this Kubeflow's object store?")
    if code == "PreconditionFailed":
        return PipelineError(f"{where} has it altered meanwhile: {ANEW}")
    if code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
        return UsageError(f"{where} is of another region ({code}): set {REGION} to the bucket's")
    if is_transient(error):
        return PipelineError(f"{where} is too busy ({code}): the same command again goes on where this one ended")
    keys = f"{ACCESS_KEY} and {SECRET_KEY}"
    return UsageError(f"{where} refuses ({code}): check {keys}, and what they are allowed; {SECRET}")


def open_store(settings: Settings, amazon: bool = False) -> Store:
    """Returns the object store of the settings, where none is named perhaps Amazon's; nothing is sent yet."""
    if importlib.util.find_spec("minio") is None:
        raise UsageError("minio is not installed: pip install -c constraints.txt -e '.[deploy]'")
    endpoint = settings.s3_endpoint or (AMAZON if amazon else "")
    access_key, secret_key = header_value(settings, "s3_access_key"), header_value(settings, "s3_secret_key")
    needed = {ENDPOINT: endpoint, ACCESS_KEY: access_key, SECRET_KEY: secret_key}
    if missing := [name for name, value in needed.items() if not value]:
        raise UsageError(
            f"the object store is not known: set {', '.join(missing)} (keys: {SECRET}; from outside of the cluster: "
            f"{FORWARD})"
        )
    # Buckets of object stores other than Amazon's have no regions of their own, and asking for one may be forbidden.
    region = settings.s3_region or ("" if endpoint.rstrip("/").endswith("amazonaws.com") else "us-east-1")
    client = s3_client(endpoint, access_key, secret_key, region, trusted(settings), (ENDPOINT, REGION))
    return Store(endpoint.rstrip("/"), client)


def _find_objects(store: Store, run_id: str, roots: list[str]) -> tuple[str, str, list[Any]]:
    """Finds a run's artifacts, below ROOT/PIPELINE/RUN ID/: the bucket, what their keys begin with, and the objects."""
    failures: list[PipelineError] = []
    bucket = prefix = ""
    # The place of the pipeline that trains comes last, to be named where there is nothing.
    places = list(product(roots, dict.fromkeys(pipeline.name for pipeline in reversed(PIPELINES.values()))))
    for root, name in places:
        bucket, prefix = parse_root(root)
        prefix += f"{name}/{run_id}/"
        try:
            if objects := store.list(bucket, prefix):
                return bucket, prefix, objects
        except (NotFoundError, UsageError) as error:
            failures.append(error)  # a user may be allowed the namespace's own root alone
    if len(failures) == len(places):
        raise failures[0]
    return bucket, prefix, []


def plan_files(prefix: str, objects: list[Any]) -> list[Item]:
    """Tells where each object of `minio`'s, whose key begins with a prefix, goes below the target folder.

    KFP puts an artifact at TASK/RANDOM ID/ARTIFACT, before 2.3 at TASK/ARTIFACT. The id is left out, unless a task has
    several.
    """
    paths = [PATH.findall(item.object_name.removeprefix(prefix))[0] for item in objects]
    ids: dict[str, set[str]] = {}
    for task, own_id, rest in paths:
        if not rest.endswith("/"):  # some clients make objects for folders
            ids.setdefault(task, set()).add(own_id)
    items = []
    for item, (task, own_id, rest) in zip(objects, paths, strict=True):
        path = task + (own_id if ids.get(task) != {own_id} else "") + rest
        items.append(Item(item.object_name, path, item.size or 0, (item.etag or "").strip('"')))
    return items


def _receive(store: Store, bucket: str, item: Item, part: Path, show: Callable[[int], None]) -> bool:
    def receive_rest() -> bool:
        with part.open("ab") as file:
            if (offset := file.tell()) == item.size:
                show(offset)
                return False
            headers = {"Accept-Encoding": "identity", "If-Match": f'"{item.etag}"'}
            response = store.client.get_object(bucket, item.key, offset=offset, request_headers=headers)
            try:
                for chunk in response.stream(CHUNK, decode_content=False):
                    file.write(chunk)
                    show(file.tell())
                return any(response.headers.get(name) for name in ENCRYPTED)
            finally:
                response.close()

    encrypted: bool = store.call(f"fetching {f's3://{bucket}/{item.key}'!r}", receive_rest)
    return encrypted
