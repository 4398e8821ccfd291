"""`--serve` and `--predict` on this machine: which release, a TorchServe on it, and its answers."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import verify
from nlp_pipeline.serving.client import ask
from nlp_pipeline.serving.torchserve import serving


def find_release(volume: Path, model_name: str | None) -> Path:
    """Returns the release that passed validation last.

    Args:
        volume: The volume, or the folder in its place.
        model_name: The model; None where the volume holds one model only, or the one validated last is meant.

    Raises:
        UsageError: There is none.
    """
    found = [volume / model_name / "latest.json"] if model_name else volume.glob("*/latest.json")
    pointers = [path for path in found if path.is_file()]
    if not pointers:
        raise UsageError(
            f"no release of {model_name or 'any model'} in {volume}: make one with --local, or name one "
            "with --release DIR"
        )
    pointer = max(pointers, key=lambda path: path.stat().st_mtime)
    try:
        return pointer.parent / "releases" / str(json.loads(pointer.read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, LookupError, TypeError):
        raise UsageError(f"{pointer} names no release: name one with --release DIR") from None


@contextlib.contextmanager
def served(release: Path, port: int = 0, timeout: float = 120) -> Iterator[tuple[str, Any]]:
    """Serves a release with TorchServe while inside.

    Args:
        release: The release's folder.
        port: The port; 0 for any that is free.
        timeout: Seconds until it must be ready.

    Yields:
        The model's address, `http://127.0.0.1:<port>/v1/models/<name>:predict`, and the server's process.

    Raises:
        UsageError: The folder is no whole release, or the port is taken.
        PipelineError: The server did not start; the end of its log goes to stderr.
    """
    name = verify(release).model_name
    if port:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise UsageError(f"port {port} can't be used ({error.strerror}): choose another with --port") from None
    with serving(release, name, port, timeout) as server:
        yield server.address, server.process


def predict_with_release(release: Path, texts: list[str]) -> list[dict[str, Any]]:
    """Serves a release just long enough to ask it for texts.

    Args:
        release: The release's folder.
        texts: The texts.

    Returns:
        For each text, in order: `text`, `label`, `score`.
    """
    with served(release) as (address, _):
        return predict_at(address, texts)


def predict_at(
    address: str, texts: list[str], labels: Sequence[str] = (), headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Asks a served model for texts.

    Args:
        address: `http://host:port/v1/models/<name>:predict`.
        texts: The texts.
        labels: The labels in the order of their ids, for a server that answers with ids.
        headers: Headers that the way to it needs: a host, a token, cookies.

    Returns:
        For each text, in order: `text`, `label`, `score` (None where the server tells none).

    Raises:
        PipelineError: The endpoint can't be reached or does not answer as it should.
    """
    import httpx

    try:
        # Proxies of the environment are for other machines.
        here = httpx.URL(address).host in ("127.0.0.1", "localhost", "::1")
        heard: list[httpx.Response] = []
        hooks = {"response": [heard.append]}
        with httpx.Client(timeout=60, trust_env=not here, headers=headers, event_hooks=hooks) as client:
            answers = ask(client, address, texts, list(labels))
    except PipelineError as error:
        advice = advise(heard[-1], headers or {}) if heard else ""
        raise PipelineError(f"{error}{advice}") from None
    except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:  # the address, or the environment's proxies
        raise PipelineError(f"{address} can't be asked: {error}") from None
    # What a command line holds need not be UTF-8, and what is printed must be.
    shown = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    return [
        {"text": text, "label": one["label"], "score": one["score"]} for text, one in zip(shown, answers, strict=True)
    ]


def advise(response: Any, headers: dict[str, str]) -> str:
    """Returns what to do about an answer that is not the model's but of what stands before it; empty where it is not.

    Args:
        response: The `httpx.Response`.
        headers: The headers that were sent besides httpx's own.
    """
    from nlp_pipeline.settings import SIGN_IN

    if response.status_code in (401, 403) or response.is_redirect:
        signed = headers.keys() & {"Authorization", "Cookie"}
        return f"; {SIGN_IN} is not taken: set it anew" if signed else f"; sign in: set {SIGN_IN}"
    if response.status_code == 404 and not response.content and "Host" not in headers:
        return "; if it is a gateway, set NLP_PIPELINE_ENDPOINT_HOST to the model's host name, by which it finds it"
    return ""


def wait_for_end(process: Any) -> None:
    """Waits until a server ends by itself, which it should not.

    Raises:
        PipelineError: It has ended.
    """
    while process.poll() is None:
        time.sleep(0.5)
    raise PipelineError(f"TorchServe has ended by itself, with status {process.returncode}: start it again")


def predict_address(endpoint: str, model_name: str | None) -> str:
    """Completes what `--endpoint` was given to the address of a model.

    Args:
        endpoint: A whole address, which ends in `:predict`, or the server's, as in `http://host:8080`.
        model_name: The model's name, which the latter needs.

    Raises:
        UsageError: It is no address, or the name is missing.
    """
    if not re.match(r"https?://[^/]", endpoint):
        raise UsageError(f"--endpoint {endpoint!r} is no address: write http://host:port or https://host")
    if endpoint.endswith(":predict"):
        return endpoint
    if not model_name:
        raise UsageError(
            f"--endpoint {endpoint}: which model? add --set model_name=NAME, or give the whole address, "
            "which ends in /v1/models/NAME:predict"
        )
    return f"{endpoint.rstrip('/')}/v1/models/{model_name}:predict"
