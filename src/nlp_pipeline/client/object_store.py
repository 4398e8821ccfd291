"""The object store that holds the runs' artifacts: its client, and what each of its failures means."""

import contextlib
import hashlib
import importlib.util
import re
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlp_pipeline.client.calls import NotFoundError
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import ODD, PREFIX, Settings, checked
from nlp_pipeline.storage import ATTEMPTS, retrying, s3_client, s3_status, s3_transient

ENDPOINT, ACCESS_KEY, SECRET_KEY, REGION = (
    f"{PREFIX}S3_{name}" for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY", "REGION")
)
KEYS = f"{ACCESS_KEY} and {SECRET_KEY}"
FORWARD = (
    "kubectl -n kubeflow port-forward svc/minio-service 9000:9000 (svc/seaweedfs where that is the object store), then "
    f"{ENDPOINT}=http://localhost:9000"
)
SECRET = "the namespace's Secret mlpipeline-minio-artifact has them"  # noqa: S105, the name of a Secret
AMAZON = "https://s3.amazonaws.com"
MIB = 1 << 20
# Sizes of the parts in which clients upload: KFP's launcher and minio-py, AWS's tools, others.
PART_SIZES = tuple(number * MIB for number in (5, 8, 10, 16, 25, 32, 50, 64, 100, 128, 256))


class AlteredError(Exception):
    """The object is another one than it was when it was listed."""


@dataclass(frozen=True)
class Store:
    """An object store.

    Attributes:
        address: Its address.
        client: Its `minio.Minio`.
    """

    address: str
    client: Any = field(repr=False)

    def call(self, doing: str, function: Callable[[], Any]) -> Any:
        """Does something with the object store; what may pass by itself is tried again.

        Args:
            doing: What is done, for messages, as in "listing s3://bucket/folder".
            function: Does it, each time from its start.

        Returns:
            What `function` returned.

        Raises:
            NotFoundError: There is no such bucket or object.
            UsageError: The object store refuses the keys, or the region is wrong.
            PipelineError: It can't be reached, or fails.
            AlteredError: The object is no longer the one that was asked for.
        """
        import minio
        import urllib3

        try:
            with contextlib.redirect_stdout(sys.stderr):
                return retrying(s3_transient, doing)(function)()
        except minio.error.S3Error as error:
            raise self._refusal(doing, str(error.code)) from None
        except (minio.error.MinioException, SyntaxError, ValueError) as error:
            # Errors of minio and of its XML parser hold the whole answer.
            raise self._no_store(doing, error) from None
        except urllib3.exceptions.HTTPError as error:
            raise PipelineError(
                f"{doing}: {self.address} can't be reached ({reason_of(error)}): is {ENDPOINT} right? from outside of "
                f"the cluster: {FORWARD}"
            ) from None

    def _refusal(self, doing: str, code: str) -> PipelineError:
        where = f"{doing}: {self.address}"
        if code in ("NoSuchBucket", "NoSuchKey", "InvalidBucketName"):
            return NotFoundError(f"{where} has it not ({code}): is {ENDPOINT} that of this Kubeflow's object store?")
        if code in ("PreconditionFailed", "InvalidRange"):
            raise AlteredError
        if code == "RequestTimeTooSkewed":
            return UsageError(f"{where} finds this machine's clock wrong: set it, as with timedatectl set-ntp true")
        if code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
            return UsageError(f"{where} is of another region ({code}): set {REGION} to the bucket's")
        if code in ("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout"):
            return PipelineError(f"{where} is too busy ({code}): the same command again goes on where this one ended")
        return UsageError(f"{where} refuses ({code}): check {KEYS}, and what they are allowed; {SECRET}")

    def _no_store(self, doing: str, error: BaseException) -> PipelineError:
        status = s3_status(error)
        if status >= 500 or status in (408, 429):
            return PipelineError(f"{doing}: {self.address} answered {status} {ATTEMPTS} times: try later")
        shown = f"status {status}" if status else "its answer can't be read"
        return UsageError(f"{doing}: {self.address} is no object store ({shown}): check {ENDPOINT}")


def reason_of(error: BaseException) -> str:
    """Returns what a failed request came to, a line."""
    text = " ".join(str(getattr(error, "reason", None) or error).split())
    # urllib3 begins with the connection object.
    return re.sub(r"^(<[^>]*>|HTTPS?Connection(Pool)?\([^)]*\)): ", "", text) or type(error).__name__


def open_store(settings: Settings, amazon: bool = False) -> Store:
    """Returns the object store of the settings; nothing is sent yet.

    Args:
        settings: The settings.
        amazon: Whether Amazon's is meant where no address is given.

    Raises:
        UsageError: The settings are wrong or not enough, or the `minio` package is not installed.
    """
    if importlib.util.find_spec("minio") is None:
        raise UsageError("minio is not installed: pip install -c constraints.txt -e '.[deploy]'")
    endpoint = settings.s3_endpoint or (AMAZON if amazon else "")
    keys = [getattr(settings, name).get_secret_value() for name in ("s3_access_key", "s3_secret_key")]
    given = {ENDPOINT: endpoint, ACCESS_KEY: keys[0], SECRET_KEY: keys[1]}
    if missing := [name for name, value in given.items() if not value]:
        raise UsageError(
            f"the object store is not known: set {', '.join(missing)} (keys: {SECRET}; from outside of the cluster: "
            f"{FORWARD})"
        )
    for name, value in zip(("s3_access_key", "s3_secret_key", "s3_region"), [*keys, settings.s3_region], strict=True):
        checked(name, value, "[!-~]*", ODD)
    address = endpoint.rstrip("/")
    # Buckets of object stores other than Amazon's have no regions of their own, and asking for one may be forbidden.
    region = settings.s3_region or (None if address.endswith("amazonaws.com") else "us-east-1")
    client = s3_client(endpoint, keys[0], keys[1], region, trust(settings), (ENDPOINT, REGION))
    return Store(address, client)


def trust(settings: Settings) -> ssl.SSLContext:
    """Returns whom the object store's certificate may come from: a public authority, or the user's own.

    Raises:
        UsageError: The user's file can't be read.
    """
    context = ssl.create_default_context()
    try:
        if settings.ca_cert:
            context.load_verify_locations(settings.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca_cert={settings.ca_cert} can't be read as certificates in PEM form ({error})") from None
    if settings.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def check_content(path: Path, size: int, etag: str) -> str:
    """Checks a file against the size and the ETag of its object.

    The ETag of what was uploaded at once is its MD5; of what was uploaded in parts it is made of the parts' MD5s, so
    that it can be checked where the size of the parts can be guessed. Other ETags tell nothing of the content.

    Args:
        path: The file.
        size: The object's size.
        etag: The object's ETag.

    Returns:
        By what it was found right: "md5", "md5 of parts" or "size"; empty where it is wrong.
    """
    if path.stat().st_size != size:
        return ""
    if re.fullmatch("[0-9a-f]{32}", etag):
        return "md5" if md5s(path, max(size, 1))[0].hex() == etag else ""
    if match := re.fullmatch(r"([0-9a-f]{32})-([0-9]+)", etag):
        for part in {size, *PART_SIZES}:
            if part and -(-size // part) == int(match[2]):
                digests = b"".join(md5s(path, part))
                if hashlib.md5(digests, usedforsecurity=False).hexdigest() == match[1]:
                    return "md5 of parts"
    return "size"


def md5s(path: Path, part: int) -> list[bytes]:
    """Returns the MD5 of each part of a file.

    Args:
        path: The file.
        part: The parts' size in bytes; the last one may be smaller.
    """
    found: list[bytes] = []
    with path.open("rb") as file:
        while True:
            digest, left = hashlib.md5(usedforsecurity=False), part
            while left and (chunk := file.read(min(left, MIB))):
                digest.update(chunk)
                left -= len(chunk)
            if left == part and found:
                return found
            found.append(digest.digest())
            if left:
                return found
