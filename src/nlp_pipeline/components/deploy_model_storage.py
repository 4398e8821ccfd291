"""How `deploy_model` puts a release where KServe reads it: it lies on the volume, or is sent to an object store.

Hermetic helpers, inlined into the step as `additional_funcs`.
"""

from pathlib import Path
from typing import Any, Callable

from nlp_pipeline.components.ranges import check_parameters
from nlp_pipeline.release import verify
from nlp_pipeline.storage import s3_call, s3_client, s3_endpoint


def release_uri(model_name: str, digest: str, model_store: str, volume_claim: str) -> tuple[str, str, str]:
    """Returns the address at which KServe reads a release.

    Args:
        model_name: The model's name, a DNS-1035 label.
        digest: The release's digest, 16 hexadecimal digits.
        model_store: Where it is sent: `s3://bucket` or `s3://bucket/prefix`; empty to serve from the volume.
        volume_claim: The claim of the volume on which the release was published.

    Returns:
        `pvc://<volume_claim>/<model_name>/releases/<digest>` or `<model_store>/<model_name>/releases/<digest>`; of the
        latter also the bucket and the prefix, for `upload_release`, which are empty for the former.

    Raises:
        ValueError: A parameter is wrong.
    """
    import re

    check_parameters(model_name=model_name)
    if not re.fullmatch(r"[0-9a-f]{16}", digest):
        raise ValueError(f"digest is {digest!r}: it must be 16 hexadecimal digits, as release.json has them")
    place = f"{model_name}/releases/{digest}"
    if not model_store:
        check_parameters(volume_claim=volume_claim)
        return f"pvc://{volume_claim}/{place}", "", ""
    bucket, prefix = split_model_store(model_store)
    prefix = f"{prefix}/{place}" if prefix else place
    return f"s3://{bucket}/{prefix}", bucket, prefix


def split_model_store(model_store: str) -> tuple[str, str]:
    """Takes the address of a place in an object store apart.

    Args:
        model_store: `s3://bucket` or `s3://bucket/prefix`, with or without slashes at its end.

    Returns:
        The bucket; and the prefix without slashes around it, which may be empty.

    Raises:
        ValueError: It is no such address.
    """
    import re

    bucket, _, prefix = model_store.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/")
    problem = ""
    if not model_store.startswith("s3://"):
        problem = "does not start with s3://"
    elif (
        not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket)
        or re.search(r"\.\.|\.-|-\.", bucket)
        or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", bucket)
    ):
        problem = "names no bucket, which has 3 to 63 lower-case letters, digits, '.' and '-'"
    elif prefix and any(not re.fullmatch(r"[\w.=-]+", part, re.A) or part in (".", "..") for part in prefix.split("/")):
        problem = "has a wrong prefix, which has letters, digits, '.', '_', '-' and '=' between single slashes, no '..'"
    if problem:
        # With these characters it may hold a password or a signature.
        shown = "" if re.search("[@?]", model_store) else f" {model_store[:200]!r}"
        raise ValueError(
            f"model_store{shown} {problem}: write s3://bucket or s3://bucket/prefix, or leave it empty for the volume"
        )
    return bucket, prefix


def upload_release(release: str, bucket: str, prefix: str, part_size: int = 16 * 2**20) -> int:
    """Sends a release to an object store, release.json last; what is there already, as it should be, is not sent.

    Each object carries the SHA-256 of its content as metadata, so that it can be checked without being read.

    Args:
        release: The release's folder.
        bucket: The bucket.
        prefix: Where in the bucket: what ends in `<model_name>/releases/<digest>`.
        part_size: Bytes of a part in which larger files are sent, 5 MiB or more; three are sent at once.

    Returns:
        The number of bytes sent; 0 where the release was there.

    Raises:
        ValueError: The release is spoilt, or another lies there.
        RuntimeError: The environment has no credentials.
        UsageError: There is no such bucket.
        PipelineError: The object store can't be reached or refuses.
    """
    import os
    from functools import partial

    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not os.environ.get(name)]
    if missing:
        raise RuntimeError(
            f"{' and '.join(missing)} must be set to send a release: put what is missing, with AWS_ENDPOINT_URL, into "
            "the Secret that s3_secret names"
        )
    endpoint = s3_endpoint()
    client = s3_client()
    record = vars(verify(Path(release)))
    place = f"{record['model_name']}/releases/{record['digest']}"
    if not f"/{prefix}".endswith(f"/{place}"):
        raise ValueError(f"{release} is the release {place}: it can't be sent to {prefix!r}, which must end in that")
    shown = f"s3://{bucket}/{prefix}"

    def ask(name: str, task: str, call: Callable[..., Any], *more: Any) -> Any:
        there = partial(call, client, bucket, f"{prefix}/{name}", *more)
        return s3_call(there, f"{shown}/{name} at {endpoint}", task)

    return send_missing(release, record, shown, ask, part_size)


def send_missing(release: str, record: dict[str, Any], shown: str, ask: Callable[..., Any], part_size: int) -> int:
    """Sends what an object store lacks of a release, and then checks that all is there.

    Args:
        release: The release's folder.
        record: What its release.json holds.
        shown: Where it is sent, as messages show it.
        ask: Calls a function with the client, the bucket and the key of a file, with retries; it takes the file's name
            in the release, what shall be done with it, the function, and what else the function takes.
        part_size: Bytes of a part in which larger files are sent.

    Returns:
        The number of bytes sent.

    Raises:
        ValueError: Another release lies there, or there is no such bucket.
        RuntimeError: The object store can't be reached or refuses, or does not hold what was sent.
    """
    sealed = same_record(ask("release.json", "read", read_object), record, shown)
    problems = find_problems(release, record, ask)
    if sealed and not problems:
        print(f"{shown} is there already: nothing is sent", flush=True)
        return 0
    sent = 0
    for name, problem in problems.items():
        if sealed or problem != "is missing":
            print(f"{shown}: {name} {problem} there, and is sent again", flush=True)
        sent += ask(name, "sent", send_file, release, name, record["files"][name], part_size)
    for name, problem in find_problems(release, record, ask).items():
        raise RuntimeError(f"{shown}/{name} {problem} after it was sent: does something else write there?")
    if not sealed:
        sent += ask("release.json", "sent", send_file, release, "release.json", "", part_size)
        if not same_record(ask("release.json", "read", read_object), record, shown):
            raise RuntimeError(f"{shown}/release.json is altered after it was sent: does something else write there?")
    print(f"{shown}: sent {len(problems)} of {len(record['files'])} files, {sent / 1e6:.1f} MB", flush=True)
    return sent


def find_problems(release: str, record: dict[str, Any], ask: Callable[..., Any]) -> dict[str, str]:
    """Returns what is wrong with a release's objects, by their names; those that are right are left out.

    Args:
        release: The release's folder.
        record: What its release.json holds.
        ask: As `send_missing` takes it.
    """
    import os

    found = {
        name: ask(name, "read", object_problem, os.path.getsize(os.path.join(release, name)), sha256)
        for name, sha256 in record["files"].items()
    }
    return {name: problem for name, problem in found.items() if problem}


def same_record(content: bytes, record: dict[str, Any], shown: str) -> bool:
    """Tells whether a release.json is a release's, which says that the release was put there whole.

    The same release made twice has two records, which differ in the run and the time: either will do.

    Args:
        content: What release.json holds; empty where there is none.
        record: The release's record.
        shown: Where it was found, as messages show it.

    Returns:
        False where there is none, or a spoilt one.

    Raises:
        ValueError: It is the record of other files.
    """
    import json

    try:
        found = json.loads(content)
        files, names = found["files"], (found["digest"], found["model_name"])
    except (ValueError, LookupError, TypeError):
        return False
    if files != record["files"]:
        raise ValueError(
            f"{shown} holds another release under the same digest, by its release.json: "
            "remove it there, or set model_store to another place"
        )
    return bool(names == (record["digest"], record["model_name"]))


def read_object(client: Any, bucket: str, key: str) -> bytes:
    """Returns the content of a small object; nothing where it is not there."""
    import minio

    try:
        response = client.get_object(bucket, key)
    except minio.error.S3Error as error:
        if error.code != "NoSuchKey":
            raise
        return b""
    try:
        return bytes(response.read())
    finally:
        response.close()


def object_problem(client: Any, bucket: str, key: str, size: int, sha256: str) -> str:
    """Returns what is wrong with an object: "is missing", "is altered", or nothing.

    Args:
        client: The `minio` client.
        bucket: The bucket.
        key: The object's key.
        size: The bytes that it must have.
        sha256: The SHA-256 of its content that it must have been sent with.
    """
    import minio

    try:
        found = client.stat_object(bucket, key)
    except minio.error.S3Error as error:
        if error.code != "NoSuchKey":
            raise
        return "is missing"
    whole = found.size == size and found.metadata.get("x-amz-meta-sha256") == sha256
    return "" if whole else "is altered"


def send_file(client: Any, bucket: str, key: str, release: str, name: str, sha256: str, part_size: int) -> int:
    """Sends a file from the disk, in parts where it is large.

    Args:
        client: The `minio` client.
        bucket: The bucket.
        key: The object's key.
        release: The release's folder.
        name: The file's path in it.
        sha256: The SHA-256 of its content, which becomes metadata; empty for none.
        part_size: Bytes of a part; a few are in memory at a time.

    Returns:
        Its size in bytes.

    Raises:
        RuntimeError: It can't be read.
    """
    import os

    path = os.path.join(release, name)
    metadata = {"sha256": sha256} if sha256 else None
    try:
        client.fput_object(bucket, key, path, metadata=metadata, part_size=part_size)
        return os.path.getsize(path)
    except OSError as error:
        raise RuntimeError(f"{path} can't be read ({error.strerror or error}): may this user read it?") from None
