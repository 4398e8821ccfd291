"""What travels in a component: all that it needs, and nothing else, in a text that arrives as it was sent."""

import ast
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nlp_pipeline.pipeline.components
import nlp_pipeline.pipeline.vertex_components  # registers its components
from nlp_pipeline import __version__, packages
from nlp_pipeline.pipeline.embedding import (
    FILES,
    REQUIREMENTS,
    carrying_command,
    image_command,
    needed_files,
    pack_text,
    strip,
)
from nlp_pipeline.pipeline.startup import unpack
from nlp_pipeline.volume import VARIABLE

PACKAGE = Path(nlp_pipeline.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
STATUS = {"state": "COMPLETE", "pipelineJobResourceName": "workflow", "pipelineTaskName": "exit-handler-1"}
VALUES = {"model_name": "reviews", "run_id": "run", "status": STATUS}


def run_notify(command: list[str], folder: Path, metrics: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the notice by a command, in an empty folder, with a run's file of metrics on the volume."""
    run = folder / "reviews" / "runs" / "run"
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.json").write_text(metrics, encoding="utf-8")
    executor_input: dict[str, Any] = {
        "inputs": {"parameterValues": VALUES},
        "outputs": {"outputFile": str(folder / "output.json")},
    }
    arguments = ["--executor_input", json.dumps(executor_input), "--function_to_execute", "notify"]
    return subprocess.run(
        [sys.executable, *command[1:], *arguments],
        cwd=folder,
        env={
            **{name: one for name, one in os.environ.items() if name != "PYTHONPATH"},
            VARIABLE: str(folder),
            "KUBECONFIG": "/nowhere",
            **environment,
        },
        capture_output=True,
        text=True,
    )


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


def test_imports_for_types_only_are_not_followed() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nlp_pipeline.demo\nelse:\n    import {}\n"
    assert needed_files(text.format("os")) == {}
    assert "nlp_pipeline/errors.py" in needed_files(text.format("nlp_pipeline.errors"))


class WithoutTypes(ast.NodeTransformer):
    """Takes the types of variables and named types out of a tree, and the types of fields where a class has no base."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = [self.visit(part) for part in node.body if not is_named_type(part)]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        for part in node.body:
            if not isinstance(part, ast.AnnAssign):
                self.visit(part)
            elif not node.bases:
                part.annotation = ast.Constant(0)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        return ast.copy_location(ast.Assign([node.target], node.value), node) if node.value else node


def is_named_type(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id.istitle() for target in targets)


class WithoutImports(ast.NodeTransformer):
    """Takes the names that nothing uses out of a tree's imports."""

    def __init__(self, tree: ast.AST) -> None:
        self.used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        node.names = [alias for alias in node.names if (alias.asname or alias.name) in self.used]
        return node if node.names else ast.copy_location(ast.Pass(), node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_stripped_source_means_the_same_on_the_same_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for types in (False, True):
        tree, stripped = ast.parse(text), ast.parse(strip(text, types))
        if types:
            named = {name.id for node in tree.body if is_named_type(node) for name in node.targets}  # type: ignore[attr-defined]
            assert not named & {node.id for node in ast.walk(stripped) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                docstring = node.body.pop(0)
                if not node.body and not isinstance(node, ast.Module):
                    node.body.append(ast.copy_location(ast.Pass(), docstring))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "parameter":
                node.args[1] = ast.Constant("")  # a parameter's description does not travel either
            if types and isinstance(node, ast.arg):
                node.annotation = None
            if types and isinstance(node, ast.FunctionDef):
                node.returns = None
        if types:
            tree = WithoutTypes().visit(tree)
            tree = WithoutImports(tree).visit(tree)
        assert ast.dump(stripped) == ast.dump(tree)
        lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        assert [node.lineno for node in ast.walk(stripped) if isinstance(node, ast.stmt)] == lines


def test_types_of_functions_stay_behind() -> None:
    text = "def f(a: int, *b: str, c: list[int] = [], **d: Any) -> dict[str, int]:\n    x: int = 0\n"
    assert strip(text, types=True) == "def f(a, *b, c = [], **d):\n    x = 0\n"
    text = "x: dict[str, int] = {}\nclass A(B):\n    y: int = 0\n    def f(self):\n        z: Any\n"
    assert strip(text, types=True) == "x = {}\nclass A(B):\n    y: int = 0\n    def f(self):\n        z: Any\n"
    text = 'T = TypeVar("T")\nROWS = Rows = dict[str, T]\nRow = int\nclass A:\n    y: Row = 0\n'
    assert strip(text, types=True) == "\nROWS = Rows = dict[str, T]\n\nclass A:\n    y: 0 = 0\n"
    text = "from m import (\n    A,\n    B as C,\n)\nfrom n import D\ndef f(a: A) -> D:\n    return C()\n"
    assert strip(text, types=True) == "from m import B as C\n\n\n\npass\ndef f(a):\n    return C()\n"


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


def test_comments_and_docstrings_stay_behind() -> None:
    text = '"""What it is."""\n\nX = "# no comment"  # why\n\n\nclass Y(Exception):\n    """Only this."""\n'
    assert strip(text) == '\n\nX = "# no comment"\n\n\nclass Y(Exception):\n    pass\n'


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_steps_install_exactly_their_pins(name: str) -> None:
    assert REQUIREMENTS[name] == [*getattr(packages, name.upper()), *packages.EVERY_STEP]


def test_what_is_packed_can_be_unpacked() -> None:
    """Though pyppmd's encoder spoils some texts."""
    lines = "".join(FILES["deploy_model"].values()).splitlines()
    for seed in range(40):
        text = "\n".join(random.Random(seed).sample(lines, len(lines) - 10 * seed))
        order, packed = pack_text(text)
        assert unpack(packed, order) == text


@pytest.mark.parametrize("name", FILES)
def test_nothing_on_the_way_can_alter_the_text(name: str) -> None:
    for command in (carrying_command(name), image_command(name)):
        text = command[2]
        # Kubernetes expands $(...) and halves $$; Argo and KFP expand {{...}}.
        assert text.isascii() and not re.search(r"\$[($]|\{\{|\}\}", text)
        # Go writes <, > and & as \\u003c and so on, in JSON in JSON.
        assert len(re.findall(r"[<>&\\]", text)) < 10
        assert len(text) < 100_000  # of 131,072 bytes that Linux allows, and Argo's template holds more than this


def test_a_step_runs_in_an_empty_folder_and_prints_what_it_says(tmp_path: Path) -> None:
    done = run_notify(carrying_command("notify"), tmp_path, '{"accuracy": 0.75}', PYTHONNOUSERSITE="1")
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
    assert run_notify(image_command("notify"), tmp_path, good, PYTHONPATH=source).returncode == 0
    other = tmp_path / "other" / "nlp_pipeline"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "0.0.1"\n')
    done = run_notify(image_command("notify"), tmp_path, good, PYTHONPATH=str(other.parent))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: compiled by nlp-pipeline {__version__}, and the image holds 0.0.1: build the image anew, or compile "
        "with --image and one that fits\n"
    )
    (other / "__init__.py").write_text("")
    done = run_notify(image_command("notify"), tmp_path, good, PYTHONPATH=str(other.parent))
    assert "and the image holds no nlp-pipeline: " in done.stderr and done.stderr.count("\n") == 1
