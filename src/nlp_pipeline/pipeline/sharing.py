"""The steps' code, once in the compiled file for Kubeflow: the first step carries it, and puts it on the volume.

A component carries the modules of its step. In a workflow each step's code is stored about nine times, and modules that
several steps need stand in each of them: on a stock Kubeflow Pipelines that comes to more than the budget allows (see
budget.py). So in the compiled file the code of all steps is one archive, which packs better and has each module once.
The other steps have in their commands where it lies, by its digest, and run it only if it is what the digest says. (As
an artifact, it would be one more input of each step: 67 KB of the workflow.)
"""

import hashlib
from typing import Any

from nlp_pipeline.pipeline.embedding import (
    FILES,
    RUN,
    carry,
    pack,
    requirements_of,
    startup_source,
    step_containers,
    step_name,
)
from nlp_pipeline.volume import VOLUME_PATH

# Part of the archive: puts it on the volume, where it appears whole or not at all.
PUT = """\
import os, pathlib, sys
path = pathlib.Path(path)
if not path.exists():
    incoming = path.with_suffix("." + os.uname().nodename)
    try:
        path.parent.mkdir(exist_ok=True)
        incoming.write_bytes(code)
        incoming.replace(path)
    except OSError as error:
        sys.exit(f"error: the volume can't be written to at {path.parents[1]} ({error.strerror}): may the step's user?")
"""
# The program of all other steps, which stands in the workflow 48 times. Single quotes: there, where this is JSON in
# JSON, a double quote takes four bytes.
TAKE = f"""\
import bz2, hashlib
path = 'PATH'
code = open(path, 'rb').read()
hashlib.sha256(code).hexdigest()[:32] in path or exit(f'error: {{path}} was altered: start the run anew')
{RUN}"""


def share_code(pipeline: dict[str, Any]) -> None:
    """Lets the first step of a pipeline carry the code of all.

    Args:
        pipeline: The first document of its IR, which is changed.
    """
    containers = {step_name(container): container for container in step_containers(pipeline)}
    files = {path: text for name in containers for path, text in FILES[name].items()}
    archive = pack(PUT + startup_source(), files, {name: requirements_of(name) for name in containers})
    path = f"{VOLUME_PATH}/.code/{hashlib.sha256(archive).hexdigest()[:32]}"
    programs = {True: carry(archive, f"path = '{path}'\n"), False: TAKE.replace("PATH", path)}
    first, component = "", pipeline["root"]
    while "dag" in component:
        tasks = component["dag"]["tasks"]
        (first,) = (name for name, task in tasks.items() if not task.get("dependentTasks"))
        component = pipeline["components"][tasks[first]["componentRef"]["name"]]
    for name, container in containers.items():
        container["command"][-1] = programs[name.replace("_", "-") == first]
