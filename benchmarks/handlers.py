"""The handler that an archive holds, in this process, as TorchServe's worker would load and call it."""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any


def load_handler(archive: Path) -> Any:
    """Returns the initialised handler of an unpacked archive, whose manifest names the handler's file."""
    manifest = json.loads((archive / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
    spec = importlib.util.spec_from_file_location("archived_handler", archive / manifest["model"]["handler"])
    assert spec and spec.loader, "the archive names a handler that is no Python file"  # noqa: S101, for mypy
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(archive))  # as TorchServe does: the handler imports what lies beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(archive))
    handler = next(each for each in vars(module).values() if isinstance(each, type) and hasattr(each, "handle"))()
    handler.initialize(context(archive))
    return handler


def context(archive: Path) -> Any:
    """Returns what TorchServe tells a handler of one request: where the archive lies, and the request's id."""
    return types.SimpleNamespace(
        system_properties={"model_dir": str(archive), "gpu_id": None, "limit_max_image_pixels": True},
        request_ids={0: "request"},
        set_response_status=lambda *status: None,
        set_response_content_type=lambda *content_type: None,
        model_yaml_config={},
    )


def answer(handler: Any, archive: Path, texts: list[str]) -> list[dict[str, Any]]:
    """Returns the predictions of a request with some texts, as the server would give them."""
    predictions: list[dict[str, Any]] = handler.handle([{"body": {"instances": texts}}], context(archive))[0][
        "predictions"
    ]
    return predictions
