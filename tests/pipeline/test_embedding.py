"""What travels in a component: all that it needs, and nothing else, in a text that arrives as it was sent."""

import ast
import json
import os
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
    strip,
)

PACKAGE = Path(nlp_pipeline.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
VALUES = {"min_accuracy": 0.5, "require": "floor", "min_gain": 0.0}


def run_gate(command: list[str], folder: Path, metrics: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the gate by a command, in an empty folder, with a file of metrics."""
    (folder / "metrics").write_text(metrics, encoding="utf-8")
    artifact = {"name": "metrics", "uri": str(folder / "metrics"), "type": {"schemaTitle": "system.Metrics"}}
    executor_input: dict[str, Any] = {
        "inputs": {"parameterValues": VALUES, "artifacts": {"metrics": {"artifacts": [artifact]}}},
        "outputs": {
            "parameters": {"Output": {"outputFile": str(folder / "Output")}},
            "outputFile": str(folder / "output.json"),
        },
    }
    arguments = ["--executor_input", json.dumps(executor_input), "--function_to_execute", "gate"]
    return subprocess.run(
        [sys.executable, *command[1:], *arguments],
        cwd=folder,
        env={**{name: one for name, one in os.environ.items() if name != "PYTHONPATH"}, **environment},
        capture_output=True,
        text=True,
    )


def test_only_what_the_step_imports_travels() -> None:
    files = needed_files("def f():\n    from nlp_pipeline.steps.gate import passes_gate\n")
    assert files.keys() == {
        "nlp_pipeline/__init__.py",
        "nlp_pipeline/errors.py",
        "nlp_pipeline/parameters.py",
        "nlp_pipeline/steps/__init__.py",
        "nlp_pipeline/steps/gate.py",
    }


def test_imports_for_types_only_are_not_followed() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nlp_pipeline.demo\nelse:\n    import {}\n"
    assert needed_files(text.format("os")) == {}
    assert "nlp_pipeline/errors.py" in needed_files(text.format("nlp_pipeline.errors"))


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
            tree = WithoutImports(tree).visit(tree)
        assert ast.dump(stripped) == ast.dump(tree)
        lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        assert [node.lineno for node in ast.walk(stripped) if isinstance(node, ast.stmt)] == lines


def test_types_of_functions_stay_behind() -> None:
    text = "def f(a: int, *b: str, c: list[int] = [], **d: Any) -> dict[str, int]:\n    x: int = 0\n"
    assert strip(text, types=True) == "def f(a, *b, c = [], **d):\n    x: int = 0\n"
    text = "from m import (\n    A,\n    B as C,\n)\nfrom n import D\ndef f(a: A) -> D:\n    return C()\n"
    assert strip(text, types=True) == "from m import B as C\n\n\n\npass\ndef f(a):\n    return C()\n"


def test_comments_and_docstrings_stay_behind() -> None:
    text = '"""What it is."""\n\nX = "# no comment"  # why\n\n\nclass Y(Exception):\n    """Only this."""\n'
    assert strip(text) == '\n\nX = "# no comment"\n\n\nclass Y(Exception):\n    pass\n'


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_steps_install_exactly_their_pins(name: str) -> None:
    assert REQUIREMENTS[name] == [*getattr(packages, name.upper()), *packages.EVERY_STEP]


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
    done = run_gate(
        carrying_command("gate"),
        tmp_path,
        '{"accuracy": 0.75, "majority_accuracy": 0.5, "champion": {}}',
        PYTHONNOUSERSITE="1",
    )
    assert json.loads((tmp_path / "output.json").read_text()) == {"parameterValues": {"Output": True}}
    assert done.stdout == "passed: accuracy 0.7500, min_accuracy 0.5, most frequent class 0.5000\n"


def test_a_traceback_has_the_repositorys_lines(tmp_path: Path) -> None:
    done = run_gate(carrying_command("gate"), tmp_path, '{"accuracy": 0.75}')
    assert done.returncode == 1
    module, line = re.findall(r'File "[^"]*/(nlp_pipeline/steps/\w+\.py)", line (\d+)', done.stderr)[-1]
    source = (Path(nlp_pipeline.__file__).parents[1] / module).read_text(encoding="utf-8").splitlines()
    assert '[f"majority_{name}"]' in source[int(line) - 1]
    assert done.stderr.endswith("KeyError: 'majority_accuracy'\n")


def test_in_an_image_the_package_there_is_used_if_it_is_the_one_that_compiled(tmp_path: Path) -> None:
    good = '{"accuracy": 0.75, "majority_accuracy": 0.5, "champion": {}}'
    source = str(Path(nlp_pipeline.__file__).parents[1])
    assert run_gate(image_command("gate"), tmp_path, good, PYTHONPATH=source).returncode == 0
    other = tmp_path / "other" / "nlp_pipeline"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "0.0.1"\n')
    done = run_gate(image_command("gate"), tmp_path, good, PYTHONPATH=str(other.parent))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: compiled by nlp-pipeline {__version__}, and the image holds 0.0.1: build the image anew, or compile "
        "with --image and one that fits\n"
    )
    (other / "__init__.py").write_text("")
    done = run_gate(image_command("gate"), tmp_path, good, PYTHONPATH=str(other.parent))
    assert "and the image holds no nlp-pipeline: " in done.stderr and done.stderr.count("\n") == 1
