"""How a step's code travels: the modules that it imports, and no others, as one archive in the component's command.

The archive is a program, startup.py, packed by bzip2, which Python has; and after it the modules, packed by PPMd, which
the program unpacks once pip has installed it: sources get an eighth smaller by it. It is written in base 85. The
modules are shortened (shortening.py), and each statement stays on its line: so does a traceback tell the repository's.
"""

import ast
import base64
import bz2
import contextlib
import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyppmd
from kfp import dsl

from nlp_pipeline import __version__, packages
from nlp_pipeline.errors import PipelineError
from nlp_pipeline.parameters import flatten, is_settings
from nlp_pipeline.pipeline.shortening import shorten, strip, write
from nlp_pipeline.pipeline.startup import MEMORY, unpack

PACKAGE = "nlp_pipeline"
ROOT = Path(__file__).parents[1]
# Six signs of Python's base 85 stand for others where the text travels: Kubernetes expands "$", Argo "{{", and Go
# writes "<", ">" and "&" in JSON with six letters each.
SIGNS = ("$&<>{}", ",./:[]")
# Runs an archive; what comes after the program in it is `packed.unused_data`.
RUN = "packed = bz2.BZ2Decompressor()\nexec(packed.decompress(code))\n"
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
from nlp_pipeline.pipeline.startup import start
"""
# What travels with each component, by its function's name: texts by their paths.
FILES: dict[str, dict[str, str]] = {}


def component(function: Callable[..., Any]) -> Any:
    """Makes a function a component whose step's modules travel with it; used as a decorator.

    The function's parameters are artifacts, values that kfp knows, and classes of settings, which are taken apart. Its
    body imports the step and calls it. Its docstring does not travel: KFP would store it many times over.
    """
    flat = flatten(function)
    # kfp takes the name and the source from the function; a docstring it would store many times over.
    flat.__name__, flat.__doc__ = function.__name__, None
    flat.__wrapped__ = function  # type: ignore[attr-defined]
    made = dsl.component(flat, base_image=packages.BASE_IMAGE)
    container = made.component_spec.implementation.container
    # kfp's own command ends with its program: imports, and the function's source.
    name, program = function.__name__, component_source(function, container.command[-1])
    FILES[name] = {f"{name}.py": program, **needed_files(program)}
    container.command = carrying_command(name)
    return made


def component_source(function: Callable[..., Any], source: str) -> str:
    """Returns the program of a component, which kfp's executor imports, from the program as kfp writes it."""
    kinds = [declared.annotation for declared in inspect.signature(function).parameters.values()]
    imports = [f"from {kind.__module__} import {kind.__name__}\n" for kind in kinds if is_settings(kind)]
    program = "".join(imports) + write(strip(source))
    if imports:
        program += f"from {flatten.__module__} import flatten\n{function.__name__} = flatten({function.__name__})\n"
    return program


def pack(before: str, files: dict[str, str], requirements: dict[str, list[str]]) -> bytes:
    """Returns an archive: a program that calls `startup.start`, which must be defined before, and the files."""
    order, packed = pack_text("\0".join(text for item in sorted(files.items()) for text in item))
    program = f"{before}start(packed.unused_data, {order}, {json.dumps(requirements, sort_keys=True)})\n"
    return bz2.compress(program.encode()) + packed


def pack_text(text: str) -> tuple[int, bytes]:
    """Returns the order by which PPMd packs a text, and the packed text.

    The encoder of pyppmd 1.3 spoils a text of fifty, at one order and not at another; its decoder does not. So what is
    packed is unpacked at once.
    """
    for order in range(16, 1, -1):
        packed = pyppmd.compress(text, max_order=order, mem_size=MEMORY)
        with contextlib.suppress(ValueError):
            if unpack(packed, order) == text:
                return order, packed
    raise PipelineError("pyppmd can't pack the steps' code: install another version of it")


def startup_source() -> str:
    """Returns the source of startup.py as it travels."""
    return shortened(Path(__file__).with_name("startup.py"))


def carry(archive: bytes, before: str = "") -> str:
    """Returns the program that carries an archive, and runs it after what comes before."""
    text = base64.b85encode(archive).decode().translate(str.maketrans(*SIGNS))
    # kfp.local looks for the executor's name.
    return f"""\
import base64, bz2  # for kfp.dsl.executor_main
code = base64.b85decode("{text}".translate(str.maketrans("{SIGNS[1]}", "{SIGNS[0]}")))
{before}{RUN}"""


def carrying_command(name: str) -> list[str]:
    """Returns the command of a step that carries its code."""
    return ["python3", "-c", carry(pack(startup_source(), FILES[name], {name: requirements_of(name)}))]


def requirements_of(name: str) -> list[str]:
    """Returns what a step needs, as pip has it."""
    return [*packages.STEPS[name], *packages.EVERY_STEP]


def image_command(name: str) -> list[str]:
    """Returns the command of a step where this package is installed too, in an image of ours."""
    program = f"{name}.py"
    return ["python3", "-c", carry(pack(CHECK, {program: FILES[name][program]}, {}))]


def step_containers(pipeline: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the steps' containers in the first document of an IR.

    Those that custom jobs start on Vertex AI are among them, but none of Google's components.
    """
    executors = [executor.get("container", {}) for executor in pipeline["deploymentSpec"]["executors"].values()]
    inputs = [component.get("inputDefinitions", {}) for component in pipeline["components"].values()]
    pools = [declared.get("parameters", {}).get("worker_pool_specs", {}) for declared in inputs]
    jobs = [job["container_spec"] for pool in pools for job in pool.get("defaultValue", [])]
    return [container for container in [*executors, *jobs] if "--function_to_execute" in container.get("args", [])]


def step_name(container: dict[str, Any]) -> str:
    """Returns the name of the component's function that a step's container runs."""
    return str(container["args"][container["args"].index("--function_to_execute") + 1])


def needed_files(program: str) -> dict[str, str]:
    """Returns the files of the package that a program needs, by their paths as imports see them.

    They are the sources, stripped, of the modules that it imports, also within functions, and of all that these import
    in turn; and what else lies beside them, such as templates.
    """
    files: dict[str, str] = {}
    waiting = [*imported_modules(program)]
    while waiting:
        path = waiting.pop()
        name = str(path.relative_to(ROOT.parent))
        if name in files:
            continue
        files[name] = shortened(path)
        waiting += [folder / "__init__.py" for folder in path.parents if folder.is_relative_to(ROOT)]
        waiting += imported_modules(path.read_text(encoding="utf-8"))
        if path.parent != ROOT:
            beside = [file for file in sorted(path.parent.iterdir()) if file.is_file() and file.suffix != ".py"]
            files |= {str(file.relative_to(ROOT.parent)): file.read_text(encoding="utf-8") for file in beside}
    return files


@cache
def shortened(path: Path) -> str:
    """Returns a module's source as it travels."""
    return shorten(path.read_text(encoding="utf-8"), shared_names())


@cache
def shared_names() -> set[str]:
    """Returns the names that modules may know of each other: what is imported, attributes, and all words of texts."""
    nodes = [node for path in ROOT.rglob("*.py") for node in ast.walk(strip(path.read_text(encoding="utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return names.union(*(re.findall(r"\w+", text) for text in texts))


@cache
def imported_modules(text: str) -> list[Path]:
    """Returns the files of the package's modules that a source imports, anywhere."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported may be a module itself.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    places = [ROOT.parent.joinpath(*name.split(".")) for name in names if name.split(".")[0] == PACKAGE]
    files = [path for place in places for path in (place.with_suffix(".py"), place / "__init__.py")]
    return [path for path in files if path.is_file()]
