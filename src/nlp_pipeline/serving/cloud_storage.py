"""Downloads a release from Cloud Storage: Vertex AI names a folder there, and leaves the reading to the container."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.release import RECORD, Release, hash_files, parse_record

# What TorchServe needs of a release. The other half of it, huggingface/, is for people and for KServe's other runtime.
SERVED = ("config/", "model-store/")


def download_release(uri: str, folder: Path) -> Release:
    """Downloads what serving needs of a release into an empty folder, and holds each file against the release's record.

    The credentials are Application Default Credentials; a server that STORAGE_EMULATOR_HOST names is asked without.
    Files go to the disk piece by piece, whatever their size.
    """
    import google.cloud.storage as storage

    match = re.fullmatch("gs://([^/]+)(?:/(.*?))?/*", uri, re.DOTALL)
    if not match:
        raise PipelineError(f"AIP_STORAGE_URI is {uri!r}: it must be a release's folder, as in gs://bucket/folder")
    prefix = f"{match[2]}/" if match[2] else ""
    with explained_errors(f"gs://{match[1]}"):
        bucket = storage.Client(project=None).bucket(match[1])

    def download(name: str) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with explained_errors(f"gs://{match[1]}/{prefix}{name}"):
            bucket.blob(prefix + name).download_to_filename(str(target))

    download(RECORD)
    release = parse_record((folder / RECORD).read_bytes())
    if release is None:
        raise PipelineError(f"{uri}/{RECORD} is not the record of a release: upload the release again")
    needed = [name for name in release.files if name.startswith(SERVED)]
    archive = f"model-store/{release.model_name}.mar"
    outside = any(".." in PurePosixPath(name).parts for name in needed)
    if outside or not {"config/config.properties", archive} <= set(needed):
        raise PipelineError(f"{uri}/{RECORD} does not name what serving needs, such as {archive}")
    for name in needed:
        download(name)
    for name, digest in hash_files(folder).items():
        if digest != release.files[name]:
            raise PipelineError(f"{uri} is spoilt: {name} is altered; upload the release again")
    return release


@contextlib.contextmanager
def explained_errors(address: str) -> Iterator[None]:
    """Makes one line of what Google's client raises inside, where trying again for two minutes did not help."""
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption

    try:
        yield
    except (GoogleAPIError, GoogleAuthError, DataCorruption, ValueError) as error:
        # A ValueError is of a name that no bucket can have.
        problem = f"can't be read: {' '.join(str(error).split())[:300]}"
        if isinstance(error, NotFound):
            problem = "is not there: the Model's artifactUri must be the folder of a whole release"
        elif isinstance(error, Forbidden):
            problem += "; the account that serves needs the role Storage Object Viewer (roles/storage.objectViewer)"
        raise PipelineError(f"{address} {problem}") from None
