"""The work: what is to be done is planned, then done shard by shard, and the manifest says at last what came of it."""

import csv
import hashlib
import io
import json
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.installed import import_installed
from nlp_pipeline.release import verify
from nlp_pipeline.serving.archived import load_archived
from nlp_pipeline.serving.model import TextClassifier, valid_unicode
from nlp_pipeline.steps.batch_predict.destination import Bucket, Folder, open_destination
from nlp_pipeline.steps.batch_predict.settings import BatchSettings
from nlp_pipeline.steps.batch_predict.tables import count_rows, find_schema, read_tables, write_csv
from nlp_pipeline.steps.load_data.fetch import fetch_source, list_sources
from nlp_pipeline.steps.load_data.rows import Source, clean_text
from nlp_pipeline.volume import file_sha256

# Files that readers of a folder of Parquet pass over, as their names begin so.
PLAN, MANIFEST = "_plan.json", "_manifest.json"
# Where there is a GPU of NVIDIA. Torch, which would tell, takes seconds to import.
GPU = Path("/dev/nvidiactl")
NO_TEXT, NO_CELLS = "no text", "cells too many or too few"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done; a run goes on only where its plan is the same."""

    release: str  # its digest
    model_name: str
    rows: int
    files: list[dict[str, Any]]  # of each its `address`, its `name`, as it may be shown, its `sha256` and its `rows`
    text_column: str
    columns: dict[str, str]  # of the results, those of the input first, with their types
    shard_rows: int

    def shards(self, to: str) -> dict[str, tuple[int, int]]:
        """Returns the number of the file that a part has its rows of, and how many, by the part's name.

        Of a file without rows comes a part without rows, too.
        """
        ending = ".csv" if to.rstrip("/").endswith(".csv") else ".parquet"
        parts = [
            (number, min(self.shard_rows, file["rows"] - start))
            for number, file in enumerate(self.files)
            for start in range(0, max(1, file["rows"]), self.shard_rows)
        ]
        return {f"part-{number:05}{ending}": part for number, part in enumerate(parts)}


def output_schema(schema: pyarrow.Schema, several: bool) -> pyarrow.Schema:
    """Returns the columns of the results; `several` for a model of several labels a text.

    One of the input that has the name of a result gets the prefix `input_`.
    """
    text, number = pyarrow.string(), pyarrow.float64()
    results = {"label": text, "score": number}
    if several:
        results = {"labels": pyarrow.list_(text), "scores": pyarrow.list_(number)}
    results |= {"reason": text, "release": text}
    kept = [field.with_name(f"input_{field.name}") if field.name in results else field for field in schema]
    names = [field.name for field in kept]
    if len({*names}) < len(names):
        raise UsageError(
            f"the columns {names} have a name twice, with the prefix of those that results have: rename one"
        )
    return pyarrow.schema([*kept, *results.items()])


def plan_shards(settings: BatchSettings, text_column: str, folder: Path) -> Plan:
    """Writes a plan to the destination, and returns it; all rows are read, to count them.

    Args:
        settings: What is to be done.
        text_column: The column of texts.
        folder: The release's.

    Raises:
        UsageError: The rows can't be read, the files differ in their columns, the release is not whole, or the
            destination holds something else.
    """
    release = verify(folder)
    destination = open_destination(settings.to)
    several = "thresholds" in release.parameters
    files: list[dict[str, Any]] = []
    columns = None
    for address in list_sources(settings.data):
        with tempfile.TemporaryDirectory() as temporary:
            source = fetch_source(address, Path(temporary, "rows"))
            rows = count_rows(source, text_column)  # first, as it says what is wrong with them
            schema = output_schema(find_schema(source, text_column), several)
            files.append({"address": address, "name": source.name, "sha256": file_sha256(source.path), "rows": rows})
        if columns not in (None, schema):
            raise UsageError(
                f"{source.name!r} has other columns than {files[0]['name']!r}, or of other types: classify it apart"
            )
        columns = schema
    plan = Plan(
        release=release.digest,
        model_name=release.model_name,
        rows=sum(file["rows"] for file in files),
        files=files,
        text_column=text_column,
        columns={field.name: str(field.type) for field in columns or []},
        shard_rows=settings.shard_rows,
    )
    former = read_plan(destination)
    if former is None:
        if names := destination.names():
            raise UsageError(
                f"{settings.to} is not empty, and holds no results: it has {min(names)}; name another folder"
            )
        write_json(destination, PLAN, asdict(plan))
        return plan
    for item in fields(Plan):
        what, before, now = item.name, getattr(former, item.name), getattr(plan, item.name)
        if before != now:
            if what in ("rows", "files"):
                what, (before, now) = "data", ([file["name"] for file in known.files] for known in (former, plan))
            raise UsageError(
                f"{settings.to} holds results of another {what}, {str(before)[:200]}, not {str(now)[:200]}: name "
                "another folder, or remove it"
            )
    return plan


def read_plan(destination: Folder | Bucket) -> Plan | None:
    """Returns the plan that a destination holds; None where there is none."""
    content = destination.read(PLAN)
    return Plan(**json.loads(content)) if content else None


def write_json(destination: Folder | Bucket, name: str, value: Any) -> None:
    """Writes a value as a file of JSON."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, name)
        file.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
        destination.write(file, name)


def predict_shards(plan: Plan, to: str, folder: Path, pod: int = 0, pods: int = 1) -> None:
    """Classifies the shards that are not there yet; of several pods, each has a part of them.

    Args:
        plan: What is to be done.
        to: The destination.
        folder: The release's.
        pod: The number of this pod, from 0.
        pods: How many there are.

    Raises:
        PipelineError: A file has changed since it was planned.
    """
    destination, shards = open_destination(to), plan.shards(to)
    mine = {name for number, name in enumerate(shards) if number % pods == pod}
    missing = mine - destination.names()
    print(f"{len(mine)} shards, {len(mine - missing)} of them done before", flush=True)
    if not missing:
        return
    classifier = load_archived(folder, plan.model_name)
    if GPU.exists():
        import_installed("steps.batch_predict.gpu", "pod_gpus").use_gpu(classifier, folder)
    for number, known in enumerate(plan.files):
        names = [name for name, (file, _) in shards.items() if file == number]
        if missing.isdisjoint(names):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            source = fetch_source(known["address"], Path(temporary, "rows"))
            if file_sha256(source.path) != known["sha256"]:
                raise PipelineError(f"{source.name!r} has changed since it was begun: classify it into another folder")
            schema = find_schema(source, plan.text_column)
            for name, table in zip(names, read_tables(source, schema, plan.shard_rows), strict=True):
                if name not in missing:
                    continue
                began, made = time.perf_counter(), Path(temporary, name)
                write_table(add_results(classifier, table, plan, source), made)
                destination.write(made, name)
                made.unlink()
                rate = table.num_rows / (time.perf_counter() - began)
                print(f"{name} of {len(shards)}: {table.num_rows:,} rows, {rate:,.0f} a second", flush=True)


def add_results(classifier: TextClassifier, table: pyarrow.Table, plan: Plan, source: Source) -> pyarrow.Table:
    """Returns a table with the results beside its columns, row for row."""
    columns = output_schema(table.schema, classifier.thresholds is not None)
    texts, reasons = read_texts(table[plan.text_column].to_pylist(), source.form in ("csv", "tsv"))
    results = [*classify(classifier, texts), reasons, [plan.release] * len(texts)]
    kinds = columns.types[-len(results) :]
    arrays = [pyarrow.array(values, kind) for values, kind in zip(results, kinds, strict=True)]
    return pyarrow.table([*table.columns, *arrays], schema=columns)


def classify(classifier: TextClassifier, texts: list[str | None]) -> tuple[list[Any], list[Any]]:
    """Returns each text's label and score, or its labels and their scores; None where there is no text."""
    # Alike in length, so that the texts of a call have little padding where they share calls: on a GPU.
    order = sorted((at for at, text in enumerate(texts) if text is not None), key=lambda at: len(texts[at] or ""))
    answers: list[dict[str, Any]] = [{}] * len(texts)
    for at, answer in zip(order, classifier.classify([texts[at] or "" for at in order]), strict=True):
        answers[at] = answer
    if not classifier.thresholds:
        return [answer.get("label") for answer in answers], [answer.get("score") for answer in answers]
    pairs = [answer.get("labels") for answer in answers]
    labels, scores = ([pair and [item[name] for item in pair] for pair in pairs] for name in ("label", "score"))
    return labels, scores


def read_texts(cells: list[Any], is_delimited: bool) -> tuple[list[str | None], list[str | None]]:
    """Returns the texts of cells, None where there is none, and then why."""
    texts = [text and valid_unicode(text) for text in map(clean_text, cells)]
    reasons = [
        None if text is not None else NO_CELLS if is_delimited and cell is None else NO_TEXT
        for cell, text in zip(cells, texts, strict=True)
    ]
    return texts, reasons


def write_table(table: pyarrow.Table, target: Path) -> None:
    """Writes a table in the format that the file's name ends in."""
    if target.suffix == ".csv":
        with target.open("w", encoding="utf-8", newline="") as file:
            write_csv(table, file)
    else:
        pyarrow.parquet.write_table(table, target)


def finish(plan: Plan, to: str) -> dict[str, Any]:
    """Makes sure that the results are whole, row for row; writes the manifest, and returns what it says."""
    destination = open_destination(to)
    shards, reasons = [], Counter[str]()
    for name, (_, rows) in plan.shards(to).items():
        content = destination.read(name)
        if content is None:
            raise PipelineError(f"{to} lacks {name}: run it again, which makes what is missing")
        found = read_reasons(name, content)
        if len(found) != rows:
            raise PipelineError(f"{name} in {to} has {len(found)} rows, not {rows}: remove it, and run it again")
        reasons.update(filter(None, found))
        shards.append({"name": name, "rows": rows, "sha256": hashlib.sha256(content).hexdigest()})
    manifest = {**asdict(plan), "without_label": dict(reasons), "shards": shards}
    write_json(destination, MANIFEST, manifest)
    destination.clean()
    return manifest


def read_reasons(name: str, content: bytes) -> list[str | None]:
    """Returns of each row of a file of results why it has no label."""
    if name.endswith(".csv"):
        with io.StringIO(content.decode("utf-8"), newline="") as file:
            return [row["reason"] for row in csv.DictReader(file)]
    table = pyarrow.parquet.read_table(io.BytesIO(content), columns=["reason"])
    reasons: list[str | None] = table["reason"].to_pylist()
    return reasons


def predict_all(settings: BatchSettings, text_column: str, folder: Path) -> dict[str, Any]:
    """Does all of it in this process; returns what the manifest says."""
    plan = plan_shards(settings, text_column, folder)
    predict_shards(plan, settings.to, folder)
    return finish(plan, settings.to)
