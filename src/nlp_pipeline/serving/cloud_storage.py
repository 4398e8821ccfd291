"""Downloads a release from Cloud Storage: Vertex AI names a folder there, and leaves the reading to the container."""

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from nlp_pipeline.errors import PipelineError

# What TorchServe needs of a release. The other half of it, huggingface/, is for people and for KServe's other runtime.
SERVED = ("config", "model-store")


def download_release(uri: str, folder: Path) -> dict[str, Any]:
    """Downloads what serving needs of a release, and holds each file against the release's record.

    The credentials are Application Default Credentials; a server that STORAGE_EMULATOR_HOST names is asked without.
    Files go to the disk piece by piece, whatever their size.

    Args:
        uri: The release's folder, `gs://bucket/folder`.
        folder: An empty folder. Where this returns, it holds release.json, config/ and model-store/.

    Returns:
        The release's record, which is what release.json holds.

    Raises:
        PipelineError: There is no release, it can't be read, or a file is not the one that was sealed.
    """
    parts = re.fullmatch("gs://([^/]+)(?:/(.*?))?/*", uri, re.DOTALL)
    if not parts:
        raise PipelineError(f"AIP_STORAGE_URI is {uri!r}: it must be a release's folder, as in gs://bucket/folder")
    bucket, place = open_bucket(parts[1]), f"{parts[2]}/" if parts[2] else ""
    download(bucket, f"{place}release.json", folder / "release.json")
    record, files = read_record(folder / "release.json", uri)
    for name, digest in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        download(bucket, f"{place}{name}", target)
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise PipelineError(f"{uri} is spoilt: {name} is altered; upload the release again")
    return record


def open_bucket(name: str) -> Any:
    """Returns the `google.cloud.storage.Bucket` of a name; nothing is asked yet.

    Args:
        name: The bucket's name.

    Raises:
        PipelineError: There are no credentials, or no bucket can have that name.
    """
    import google.cloud.storage as storage
    from google.auth.exceptions import GoogleAuthError

    try:
        return storage.Client(project=None).bucket(name)
    except (GoogleAuthError, ValueError) as error:
        raise PipelineError(f"gs://{name} can't be read: {one_line(error)}") from None


def download(bucket: Any, name: str, target: Path) -> None:
    """Downloads an object, trying again for two minutes where that may help.

    Args:
        bucket: The `google.cloud.storage.Bucket`.
        name: The object's name.
        target: The file to write.

    Raises:
        PipelineError: It is not there, can't be read, or did not arrive whole.
    """
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption

    address = f"gs://{bucket.name}/{name}"
    try:
        bucket.blob(name).download_to_filename(str(target))
    except NotFound:
        raise PipelineError(
            f"{address} is not there: the Model's artifactUri must be the folder of a whole release"
        ) from None
    except Forbidden as error:
        advice = "the account that serves needs the role Storage Object Viewer (roles/storage.objectViewer)"
        raise PipelineError(f"{address} may not be read: {advice}; {one_line(error)}") from None
    except DataCorruption:
        raise PipelineError(f"{address} arrived with another checksum than Cloud Storage names: try again") from None
    except (GoogleAPIError, GoogleAuthError) as error:
        raise PipelineError(f"{address} can't be read: {one_line(error)}") from None


def read_record(path: Path, uri: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns a release's record, and the SHA-256 of each file that serving needs by its name.

    Args:
        path: The downloaded release.json.
        uri: Where it is from.

    Raises:
        PipelineError: It is no release's record.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: PurePosixPath(name).parts for name in record["files"]}
        files = {name: str(record["files"][name]) for name, some in parts.items() if some[0] in SERVED}
        archive = f"model-store/{record['model_name']}.mar"
    except (ValueError, LookupError, TypeError, AttributeError):
        raise PipelineError(f"{uri}/release.json is not the record of a release: upload the release again") from None
    if not {"config/config.properties", archive} <= files.keys() or any(".." in parts[name] for name in files):
        raise PipelineError(f"{uri}/release.json does not name what serving needs, such as {archive}")
    return record, files


def one_line(error: Exception) -> str:
    """Returns what an error says, in one line that is not too long."""
    return " ".join(str(error).split())[:300]
