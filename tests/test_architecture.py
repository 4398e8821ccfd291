"""The rules of the house that docs/architecture.md draws, as far as imports can break them."""

import ast
from pathlib import Path

import nlp_pipeline

ROOT = Path(nlp_pipeline.__file__).parent
# From the ground up; a room imports from its own floor and from those below.
FLOORS = [
    {"", "errors", "packages", "labels"},
    {"parameters", "storage", "settings", "installed"},
    {"volume", "release", "processes", "progress", "demo"},
    {"serving"},
    {"steps", "deploy", "train_job"},
    {"pipeline"},
    {"platforms", "kubeflow", "vertex", "local"},
    {"commands", "file_commands", "cli", "docs"},
]


def imports_of(path: Path) -> set[str]:
    """Returns the modules that a source imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    return found


def room_of(module: str) -> str:
    """Returns the folder or file of the package that a module lies in; what pods run for Vertex AI are steps."""
    parts = [*module.split("."), "", ""]
    return "steps" if parts[1] == "vertex" and parts[2] in ("steps", "settings") else parts[1]


def test_only_the_pipelines_rooms_know_kfp() -> None:
    for path in ROOT.rglob("*.py"):
        known = {name for name in imports_of(path) if name.split(".")[0] == "kfp"}
        room = path.relative_to(ROOT).parts[0]
        assert room == "pipeline" or known <= ({"kfp", "kfp.local"} if room == "local.py" else set()), path


def test_arrows_point_down() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for path in ROOT.rglob("*.py"):
        room = room_of(".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"))
        for name in imports_of(path):
            other = room_of(name) if name.split(".")[0] == "nlp_pipeline" else room
            if floor.get(other, -1) > floor[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_the_platforms_do_not_know_each_other() -> None:
    for here, there in (("kubeflow", "vertex"), ("vertex", "kubeflow")):
        for path in (ROOT / here).rglob("*.py"):
            assert not [name for name in imports_of(path) if name.startswith(f"nlp_pipeline.{there}")], path
