"""What travels in a component: all that it needs, and nothing else, in a text that arrives as it was sent."""

import ast
import random
import re
import subprocess
from pathlib import Path

import nlp_pipeline.pipeline.components
import nlp_pipeline.pipeline.vertex_components  # registers its components
from nlp_pipeline import __version__
from nlp_pipeline.pipeline.embedding import (
    FILES,
    carrying_command,
    image_command,
    needed_files,
    pack_text,
)
from nlp_pipeline.pipeline.startup import unpack
from nlp_pipeline.volume import VARIABLE
from tests.pipeline.programs import NOTICE, run_program


def run_notify(command: list[str], folder: Path, metrics: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the notice by a command, in an empty folder, with a run's file of metrics on the volume."""
    run = folder / "reviews" / "runs" / "run"
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.json").write_text(metrics, encoding="utf-8")
    return run_program(command[-1], "notify", folder, NOTICE, **{VARIABLE: str(folder), "PYTHONPATH": path})


def test_only_what_the_step_imports_travels() -> None:
    files = needed_files("def f():\n    from nlp_pipeline.steps.evaluate_model.gate import passes_gate\n")
    assert files.keys() == {
        "nlp_pipeline/__init__.py",
        "nlp_pipeline/errors.py",
        "nlp_pipeline/parameters.py",
        "nlp_pipeline/steps/__init__.py",
        "nlp_pipeline/steps/evaluate_model/__init__.py",
        "nlp_pipeline/steps/evaluate_model/gate.py",
        "nlp_pipeline/steps/evaluate_model/report.css",
        "nlp_pipeline/steps/evaluate_model/report.html.jinja",
        "nlp_pipeline/steps/evaluate_model/settings.py",
        "nlp_pipeline/volume.py",
    }


def test_what_modules_import_of_each_other_travels() -> None:
    trees = {path: ast.parse(text) for files in FILES.values() for path, text in files.items() if path.endswith(".py")}
    defined = {path: {name for node in tree.body for name in names_of(node)} for path, tree in trees.items()}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (path := f"{(node.module or '').replace('.', '/')}.py") in trees:
                assert {alias.name for alias in node.names} <= defined[path], ast.unparse(node)


def names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def test_what_is_packed_can_be_unpacked() -> None:
    """Though pyppmd's encoder spoils some texts."""
    lines = "".join(FILES["deploy_model"].values()).splitlines()
    for seed in range(10):
        text = "\n".join(random.Random(seed).sample(lines, len(lines) - 10 * seed))
        order, packed = pack_text(text)
        assert unpack(packed, order) == text


def test_nothing_on_the_way_can_alter_the_text() -> None:
    for command in [*map(carrying_command, FILES), image_command("notify")]:
        text = command[2]
        # Kubernetes expands $(...) and halves $$; Argo and KFP expand {{...}}.
        assert text.isascii() and not re.search(r"\$[($]|\{\{|\}\}", text)
        # Go writes <, > and & as \\u003c and so on, in JSON in JSON.
        assert len(re.findall(r"[<>&\\]", text)) < 10
        assert len(text) < 100_000  # of 131,072 bytes that Linux allows, and Argo's template holds more than this


def test_a_step_runs_in_an_empty_folder_and_prints_what_it_says(tmp_path: Path) -> None:
    done = run_notify(carrying_command("notify"), tmp_path, '{"accuracy": 0.75}')
    assert (tmp_path / "output.json").exists() and done.stdout.startswith("reviews: succeeded, accuracy 0.75\n")


def test_a_traceback_has_the_repositorys_lines(tmp_path: Path) -> None:
    done = run_notify(carrying_command("notify"), tmp_path, "{")
    assert done.returncode == 1
    module, line = re.findall(r'File "[^"]*/(nlp_pipeline/steps/\w+\.py)", line (\d+)', done.stderr)[-1]
    source = (Path(nlp_pipeline.__file__).parents[1] / module).read_text(encoding="utf-8").splitlines()
    assert "json.loads(" in source[int(line) - 1]
    assert "JSONDecodeError: " in done.stderr.splitlines()[-1]


def test_in_an_image_the_package_there_is_used_if_it_is_the_one_that_compiled(tmp_path: Path) -> None:
    good = '{"accuracy": 0.75}'
    source = str(Path(nlp_pipeline.__file__).parents[1])
    assert run_notify(image_command("notify"), tmp_path, good, source).returncode == 0
    other = tmp_path / "other" / "nlp_pipeline"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "0.0.1"\n')
    done = run_notify(image_command("notify"), tmp_path, good, str(other.parent))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: compiled by nlp-pipeline {__version__}, and the image holds 0.0.1: build the image anew, or compile "
        "with --image and one that fits\n"
    )
    (other / "__init__.py").write_text("")
    done = run_notify(image_command("notify"), tmp_path, good, str(other.parent))
    assert "and the image holds no nlp-pipeline: " in done.stderr and done.stderr.count("\n") == 1
