"""Downloads a release from Cloud Storage: Vertex AI names a folder there, and leaves the reading to the container."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.release import RECORD, Release, hash_files, parse_record

# What TorchServe needs of a release. The other half of it, huggingface/, is for people and for KServe's other runtime.
SERVED = ("config/", "model-store/")


def download_release(uri: str, folder: Path) -> Release:
    """Downloads what serving needs of a release, and holds each file against the release's record.

    The credentials are Application Default Credentials; a server that STORAGE_EMULATOR_HOST names is asked without.
    Files go to the disk piece by piece, whatever their size.

    Args:
        uri: The release's folder, `gs://bucket/folder`.
        folder: An empty folder. Where this returns, it holds release.json, config/ and model-store/.

    Raises:
        PipelineError: There is no release, it can't be read, or a file is not the one that was sealed.
    """
    match = re.fullmatch("gs://([^/]+)(?:/(.*?))?/*", uri, re.DOTALL)
    if not match:
        raise PipelineError(f"AIP_STORAGE_URI is {uri!r}: it must be a release's folder, as in gs://bucket/folder")
    bucket, prefix = open_bucket(match[1]), f"{match[2]}/" if match[2] else ""
    download(bucket, f"{prefix}{RECORD}", folder / RECORD)
    release = parse_record((folder / RECORD).read_bytes())
    if release is None:
        raise PipelineError(f"{uri}/{RECORD} is not the record of a release: upload the release again")
    needed = [name for name in release.files if name.startswith(SERVED)]
    archive = f"model-store/{release.model_name}.mar"
    outside = any(".." in PurePosixPath(name).parts for name in needed)
    if outside or not {"config/config.properties", archive} <= set(needed):
        raise PipelineError(f"{uri}/{RECORD} does not name what serving needs, such as {archive}")
    for name in needed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        download(bucket, f"{prefix}{name}", folder / name)
    for name, digest in hash_files(folder).items():
        if digest != release.files[name]:
            raise PipelineError(f"{uri} is spoilt: {name} is altered; upload the release again")
    return release


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


def one_line(error: Exception) -> str:
    """Returns what an error says, in one line that is not too long."""
    return " ".join(str(error).split())[:300]
