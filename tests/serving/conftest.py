"""Releases of the tiny model, made by the step itself, and what serves and asks them."""

import functools
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.release import seal, verify
from nlp_pipeline.serving.handler import TextClassificationHandler
from nlp_pipeline.steps.archive_model import archiving
from nlp_pipeline.steps.archive_model.export import export_model
from nlp_pipeline.steps.archive_model.settings import ArchiveSettings
from nlp_pipeline.volume import Run
from tests.conftest import make_rows, write_parquet

MAX_LENGTH = 32
REPORT = "<!doctype html>\n<html><body><h1>Evaluation</h1><!-- archive_model --><p>the end</body></html>\n"


@functools.cache
def made_release(model: Path, precision: str, model_name: str = "tiny") -> Path:
    """Returns a release of the model, made once a session; a volume of its own lies around it."""
    return Path(archived(model, model.parent / f"archived-{model_name}-{precision}", precision, model_name)["release"])


@functools.cache
def exported(model: Path) -> bytes:
    """Returns a classifier in ONNX, exported once a session, as that takes seconds."""
    export_model(model, model.parent / "exported.onnx")
    return (model.parent / "exported.onnx").read_bytes()


def archived(
    model: Path,
    folder: Path,
    precision: str,
    model_name: str = "tiny",
    predicted: list[str] | None = None,
    serving_gpus: int = 0,
    rows: Sequence[tuple[str, Any]] = (),
) -> dict[str, Any]:
    """Runs the step, with its inputs and a volume in a folder that is made, and returns what it notes of the release.

    Args:
        model: A classifier of "0" and "4".
        folder: The folder.
        precision: A parameter, as `model_name` and `serving_gpus` are.
        predicted: What the offline model said of the rows; by default what is right.
        rows: Labelled rows; by default `make_rows(100, seed=21)`.
    """
    run = Run(model_name=model_name, run_id="run", volume_path=str(folder / "volume"))
    assert run.folder
    run.folder.mkdir(parents=True)
    (run.folder / "report.html").write_text(REPORT)
    rows = rows or make_rows(100, seed=21)
    predictions = write_parquet(
        folder / "predictions.parquet",
        rows,
        {"metrics": '{"accuracy": 1.0}'},
        predicted=predicted or [label for _, label in rows],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archiving, "export_model", lambda path, target: target.write_bytes(exported(path)))
        return archiving.archive_model(
            model,
            predictions,
            folder / "release",
            folder / "report.html",
            settings=ArchiveSettings(precision=precision),
            max_length=MAX_LENGTH,
            min_agreement=0.97,
            serving_gpus=serving_gpus,
            run=run,
        )


@pytest.fixture(scope="session")
def release(model: Path) -> Path:
    """The int8 release."""
    return made_release(model, "int8")


@pytest.fixture(scope="session")
def handlers(model: Path) -> dict[str, TextClassificationHandler]:
    """Handlers that have loaded the archives, by precision."""
    return {precision: load_handler(made_release(model, precision)) for precision in ("int8", "fp32")}


def load_handler(release: Path, kind: type[TextClassificationHandler] = TextClassificationHandler) -> Any:
    """Returns a handler that has loaded a release's archive, as TorchServe would unpack it."""
    unpacked = release.parent.parent / "unpacked"
    with zipfile.ZipFile(next(release.glob("model-store/*.mar"))) as archive:
        archive.extractall(unpacked)
    handler = kind()
    handler.initialize(make_context(1, unpacked))
    return handler


def make_context(requests: int, folder: Path | str = "") -> Any:
    """Returns TorchServe's own context of a batch with so many requests."""
    from ts.context import Context, RequestProcessor  # type: ignore[import-untyped]

    context = Context("tiny", str(folder), {}, requests, None, "0.12.0")
    context.request_ids = {at: f"id-{at}" for at in range(requests)}
    context.request_processor = [RequestProcessor({}) for _ in range(requests)]
    return context


def before_it_loads(statement: str) -> Callable[[bytes], bytes]:
    """Returns a change of the handler's source: what it does before it loads its model."""
    first = b"        folder = Path("
    return lambda source: source.replace(first, f"        {statement}\n".encode() + first, 1)


def changed_release(
    release: Path,
    target: Path,
    files: dict[str, Callable[[bytes], bytes] | None] | None = None,
) -> Path:
    """Copies a release and seals it, with changed files of its archive (None leaves one out)."""
    shutil.copytree(release, target)
    archive = next(target.glob("model-store/*.mar"))
    with zipfile.ZipFile(archive) as former:
        content = {name: former.read(name) for name in former.namelist()}
    for name, change in (files or {}).items():
        former_content = content.pop(name)
        if change is not None:
            content[name] = change(former_content)
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in content.items():
            new.writestr(name, data)
    seal(target, verify(release))
    return target
