"""The steps' code, once in a compiled file: the first step carries it and hands it on as an artifact.

A component carries the modules of its step. In a workflow each step's code is stored about nine times, and modules that
several steps need stand in each of them: on a stock Kubeflow Pipelines that comes to more than the budget allows (see
budget.py). So in the compiled file for Kubeflow the code of all steps is one archive, which packs better and has each
module once. The first step unpacks it as any step does its own, and writes it to its artifact `code`; the others have
in their commands the digest of the archive, and run it from the artifact where that is so.
"""

import hashlib
from typing import Any

from nlp_pipeline.pipeline.embedding import FILES, in_base85, pack, step_containers, step_name

CODE = "code"
TYPE = {"artifactType": {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}}
# Runs in the first step: what it carries becomes the artifact's file.
FIRST = """\
import base64, bz2, json, os, pathlib, sys
os.environ['_KFP_RUNTIME'] = 'true'
import kfp.dsl.executor_main
code = base64.b85decode(BASE85)
uri = json.loads(sys.argv[2])['outputs']['artifacts']['code']['artifacts'][0]['uri']
path = pathlib.Path(kfp.dsl.Artifact(uri=uri).path)
path.parent.mkdir(parents=True, exist_ok=True)
path.write_bytes(code)
exec(bz2.decompress(code))
"""
# Runs in the others; kfp's executor knows nothing of the artifact. Single quotes, and few lines: in the workflow, where
# this is JSON in JSON, a double quote takes four bytes.
NEXT = """\
import bz2, hashlib, json, os, sys
os.environ['_KFP_RUNTIME'] = 'true'
import kfp.dsl.executor_main
given = json.loads(sys.argv[2])
code = open(kfp.dsl.Artifact(uri=given['inputs']['artifacts'].pop('code')['artifacts'][0]['uri']).path, 'rb').read()
if hashlib.sha256(code).hexdigest() != 'DIGEST': sys.exit('error: the code was altered on its way: run it anew')
sys.argv[2] = json.dumps(given)
exec(bz2.decompress(code))
"""


def share_code(pipeline: dict[str, Any]) -> None:
    """Lets the first step of a pipeline carry the code of all.

    Args:
        pipeline: The first document of the IR, which is changed.
    """
    containers = {step_name(one): one for one in step_containers(pipeline)}
    archive = pack({path: text for name in containers for path, text in FILES[name].items()})
    following = NEXT.replace("DIGEST", hashlib.sha256(archive).hexdigest())
    (first,) = (name for name, task in tasks_of(pipeline["root"]) if not task.get("dependentTasks"))
    for name, container in containers.items():
        is_first = name.replace("_", "-") == first
        container["command"][-1] = FIRST.replace("BASE85", in_base85(archive)) if is_first else following
    outputs = pipeline["components"][f"comp-{first}"]["outputDefinitions"]
    outputs["artifacts"][CODE] = TYPE
    source = {"taskOutputArtifact": {"outputArtifactKey": CODE, "producerTask": first}}
    hand_on(pipeline, pipeline["root"], CODE, source, first)


def hand_on(pipeline: dict[str, Any], group: dict[str, Any], key: str, source: dict[str, Any], first: str) -> None:
    """Gives an artifact to all tasks of a group, and of the groups in it.

    Args:
        pipeline: The first document of the IR, which is changed.
        group: The component of the group.
        key: The name of the input with the artifact, of steps and of groups.
        source: Where the group has it, as the IR says it.
        first: The task that makes it.
    """
    for name, task in tasks_of(group):
        if name == first:
            continue
        component = pipeline["components"][task["componentRef"]["name"]]
        task.setdefault("inputs", {}).setdefault("artifacts", {})[key] = source
        component.setdefault("inputDefinitions", {}).setdefault("artifacts", {})[key] = TYPE
        if "taskOutputArtifact" in source:
            task["dependentTasks"] = sorted({*task.get("dependentTasks", []), first})
        if "dag" in component:
            hand_on(pipeline, component, key, {"componentInputArtifact": key}, first)


def tasks_of(group: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the tasks of a group, with their names."""
    return list(group["dag"]["tasks"].items())
