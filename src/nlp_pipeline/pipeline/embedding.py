"""How a step's code travels: the modules that it imports, and no others, as one archive in the component's command.

The archive is a program with a dictionary of paths and texts, packed by bzip2 (which packs sources tighter than gzip
and xz, and whose output has been the same, to the byte, for decades) and written in base 85. Docstrings, comments,
functions' types and parameters' descriptions are left out; their lines stay, so that a traceback's line numbers are the
repository's.
"""

import ast
import base64
import bz2
import inspect
import io
import json
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kfp import dsl

from nlp_pipeline import __version__, packages
from nlp_pipeline.parameters import Settings, flatten, parameter

PACKAGE = "nlp_pipeline"
ROOT = Path(__file__).parents[1]
# Six signs of Python's base 85 stand for others where the text travels: Kubernetes expands "$", Argo "{{", and Go
# writes "<", ">" and "&" in JSON with six letters each.
SIGNS = ("$&<>{}", ",./:[]")
# Puts files into a temporary folder and hands over to kfp's executor. Logging is set up first, and thereby for kfp too,
# which would log at INFO: a step's log is what the step prints.
UNPACK = """\
import logging, os, pathlib, sys, tempfile
logging.basicConfig(stream=sys.stdout)
os.environ["_KFP_RUNTIME"] = "true"
folder = tempfile.mkdtemp()
for name, text in files.items():
    path = pathlib.Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
sys.argv += ["--component_module_path", folder + "/" + sys.argv[4] + ".py"]
from kfp.dsl.executor_main import executor_main
executor_main()
"""
# In an image that holds the package, nothing travels but the component itself.
CHECK = f"""\
import sys
try:
    from nlp_pipeline import __version__ as found
except ImportError:
    found = "no nlp-pipeline"
if found != "{__version__}":
    sys.exit(f"error: compiled by nlp-pipeline {__version__}, and the image holds {{found}}: build the image anew, or "
             "compile with --image and one that fits")
"""
# What travels with each component, by its function's name: texts by their paths.
FILES: dict[str, dict[str, str]] = {}


def component(packages_to_install: list[str]) -> Callable[[Callable[..., Any]], Any]:
    """Makes a function a component whose step's modules travel with it; used as a decorator.

    The function's parameters are artifacts, values that kfp knows, and classes of settings, which are taken apart. Its
    body imports the step and calls it. Its docstring does not travel: KFP would store it many times over.

    Args:
        packages_to_install: Pinned requirements of the step.
    """

    def make(function: Callable[..., Any]) -> Any:
        flat = flatten(function)
        # kfp takes the name and the source from the function; a docstring it would store many times over.
        flat.__name__, flat.__doc__ = function.__name__, None
        flat.__wrapped__ = function  # type: ignore[attr-defined]
        made = dsl.component(flat, base_image=packages.BASE_IMAGE, packages_to_install=packages_to_install)
        container = made.component_spec.implementation.container
        # kfp's own command ends with its program: imports, and the function's source.
        name, program = function.__name__, component_source(function, container.command[-1])
        FILES[name] = {f"{name}.py": program, **needed_files(program)}
        container.command = ["sh", "-c", install_script(packages_to_install), *carrying_command(name)]
        return made

    return make


def install_script(requirements: list[str]) -> str:
    """Returns the shell's script that installs a step's packages and kfp, and runs the command after it.

    It is kfp's own in fewer words: without what only an image without pip, or an old Python, would need.

    Args:
        requirements: Pinned requirements.
    """
    pip = "pip='python3 -m pip install -q --no-warn-script-location --disable-pip-version-check'"
    own = [f"$pip {' '.join(requirements)}"] if requirements else []
    return " && ".join([pip, *own, f"$pip --no-deps {packages.KFP}", 'exec "$0" "$@"'])


def component_source(function: Callable[..., Any], source: str) -> str:
    """Returns the program of a component, which kfp's executor imports.

    Args:
        function: The component's function.
        source: The program as kfp writes it.
    """
    kinds = [one.annotation for one in inspect.signature(function).parameters.values()]
    imports = [
        f"from {kind.__module__} import {kind.__name__}\n"
        for kind in kinds
        if inspect.isclass(kind) and issubclass(kind, Settings)
    ]
    program = "".join(imports) + strip_source(source.strip() + "\n")
    if imports:
        program += f"from {flatten.__module__} import flatten\n{function.__name__} = flatten({function.__name__})\n"
    return program


def pack(files: dict[str, str], before: str = "") -> bytes:
    """Returns an archive: a program that unpacks files and runs the component among them, compressed.

    Args:
        files: Texts by their paths.
        before: A program that is run first; its variable `code` is the archive.
    """
    listed = json.dumps(files, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return bz2.compress(f"{before}files = {listed}\n{UNPACK}".encode())


def carry(archive: bytes, before: str = "") -> str:
    """Returns the program that carries an archive, and runs it after what comes before."""
    text = base64.b85encode(archive).decode().translate(str.maketrans(*SIGNS))
    # kfp.local looks for the executor's name.
    return f"""\
import base64, bz2  # for kfp.dsl.executor_main
code = base64.b85decode("{text}".translate(str.maketrans("{SIGNS[1]}", "{SIGNS[0]}")))
{before}exec(bz2.decompress(code))
"""


def carrying_command(name: str) -> list[str]:
    """Returns the command of a step that carries its code, where its packages are installed."""
    return ["python3", "-c", carry(pack(FILES[name]))]


def image_command(name: str) -> list[str]:
    """Returns the command of a step where this package is installed too, in an image of ours."""
    program = f"{name}.py"
    return ["python3", "-c", carry(pack({program: strip_source(CHECK) + FILES[name][program]}))]


def step_containers(pipeline: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the steps' containers, those that custom jobs start on Vertex AI among them; none of Google's components.

    Args:
        pipeline: The first document of the IR.
    """
    executors = [executor.get("container", {}) for executor in pipeline["deploymentSpec"]["executors"].values()]
    inputs = [one.get("inputDefinitions", {}).get("parameters", {}) for one in pipeline["components"].values()]
    pools = [pool for one in inputs for pool in one.get("worker_pool_specs", {}).get("defaultValue", [])]
    jobs = [pool["container_spec"] for pool in pools]
    return [one for one in [*executors, *jobs] if "--function_to_execute" in one.get("args", [])]


def step_name(container: dict[str, Any]) -> str:
    """Returns the name of the component's function that a step's container runs."""
    return str(container["args"][container["args"].index("--function_to_execute") + 1])


def needed_files(program: str) -> dict[str, str]:
    """Returns the files of the package that a program needs, by their paths below the package's folder's parent.

    Args:
        program: A program that imports modules of the package, also within functions.

    Returns:
        The sources, stripped, of the modules and of all that they import in turn; and what else lies in the folders of
        those that have files which are no modules, such as templates.
    """
    found: dict[str, str] = {}
    waiting = list(imported_modules(program))
    while waiting:
        path = waiting.pop()
        name = str(path.relative_to(ROOT.parent))
        if name in found:
            continue
        text = path.read_text(encoding="utf-8")
        found[name] = strip_types(strip_source(text))
        waiting += [folder / "__init__.py" for folder in path.parents if folder.is_relative_to(ROOT)]
        waiting += imported_modules(text)
        if path.parent != ROOT:
            beside = [one for one in sorted(path.parent.iterdir()) if one.is_file() and one.suffix != ".py"]
            found |= {str(one.relative_to(ROOT.parent)): one.read_text(encoding="utf-8") for one in beside}
    return found


def imported_modules(text: str) -> Iterator[Path]:
    """Yields the files of the package's modules that a source imports, anywhere but under `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        names: list[str] = []
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported may be a module itself.
            names = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
        for name in names:
            if name.split(".")[0] == PACKAGE:
                place = ROOT.parent.joinpath(*name.split("."))
                yield from [one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()]
        waiting += ast.iter_child_nodes(node)


def strip_source(text: str) -> str:
    """Returns a source without docstrings, comments and parameters' descriptions; lines keep their numbers."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            first, last = docstring.lineno - 1, docstring.end_lineno or 0
            lines[first:last] = [""] * (last - first)
            if len(node.body) == 1 and not isinstance(node, ast.Module):
                lines[first] = " " * docstring.col_offset + "pass"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == parameter.__name__:
            drop_text(lines, node.args[1])
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1]:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]].rstrip()
    return "\n".join(lines).rstrip("\n") + "\n"


def drop_text(lines: list[str], node: ast.expr) -> None:
    """Puts an empty text in the place of an expression; all lines keep their numbers."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    end = lines[last][node.end_col_offset :]
    lines[first] = lines[first][: node.col_offset] + '""'
    lines[first + 1 : last + 1] = [""] * (last - first)
    lines[last] += end


def strip_types(text: str) -> str:
    """Returns a source without the types of functions' parameters and results; all lines keep their numbers."""
    lines = text.splitlines()
    types: list[tuple[int, int, ast.expr]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arg) and node.annotation:
            types.append((node.lineno - 1, node.col_offset + len(node.arg), node.annotation))
        elif isinstance(node, ast.FunctionDef) and node.returns:
            line = node.returns.lineno - 1
            types.append((line, lines[line].rindex(" ->", 0, node.returns.col_offset), node.returns))
    for line, start, node in sorted(types, key=lambda item: item[:2], reverse=True):
        # Of the few types of several lines, and of lines whose columns are not bytes, none is worth the trouble.
        if node.end_lineno == line + 1 and lines[line].isascii():
            lines[line] = lines[line][:start] + lines[line][node.end_col_offset :]
    return "\n".join(lines) + "\n"
