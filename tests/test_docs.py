import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nlp_pipeline import docs
from nlp_pipeline.cli import check_arguments, make_parser
from nlp_pipeline.pipeline.parameters import OTHERS, find_pipeline, parse_settings

PAGES = [docs.ROOT / "README.md", docs.ROOT / "CONTRIBUTING.md", *sorted((docs.ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_generated_part_stands_in_one_page_and_is_current() -> None:
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    assert sorted(match["name"] for text in pages for match in docs.PART.finditer(text)) == sorted(docs.PARTS)
    assert [docs.generate(text) for text in pages] == pages


def test_a_stale_page_is_told_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    current = (docs.ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    stale = tmp_path / "docs" / "parameters.md"
    stale.parent.mkdir()
    stale.write_text(current.replace("| `epochs` | float | `2.0` |", "| `epochs` |"))
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["docs", "--check"])
    with pytest.raises(SystemExit, match=r"docs/parameters\.md is stale: make docs"):
        docs.main()
    assert "+| `epochs` | float | `2.0` |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["docs"])
    docs.main()
    assert stale.read_text(encoding="utf-8") == current


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]+))?\)", text):
        target = (page.parent / path) if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), anchor
    makefile = (docs.ROOT / "Makefile").read_text(encoding="utf-8")
    for line in re.findall(r"(?:`|^)make ([^`#&\n]+)", text, re.M):
        for target in (word for word in line.split() if "=" not in word):
            assert f"\n{target}:" in makefile, target


def command_lines(page: Path) -> list[list[str]]:
    """Returns the arguments of each command line of the project's in a page's code, without what a shell adds."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"python pipeline_v2\.py (--[^`\n]*)", text)
    cut = [re.split(r" [|>&]|\)$", re.sub(r"\$WHERE", "", line).replace("$rate", "1e-5"))[0] for line in lines]
    return [shlex.split(line, comments=True) for line in cut]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_flags_and_parameters_of_a_pages_commands_go_together(page: Path) -> None:
    for line in command_lines(page):
        parser = make_parser()
        arguments = parser.parse_args(line)
        check_arguments(parser, arguments)
        platform = "vertex" if page.name == "vertex.md" or "vertex" in line else "kubeflow"
        own = [name for name in OTHERS if getattr(arguments, name)]
        parse_settings(arguments.set, own[0] if own else find_pipeline(platform, arguments.pipeline or "train"))


@pytest.mark.parametrize(
    "way", ["Kubeflow Pipelines alone", "A Kubeflow profile", "A locked-down namespace without the internet"]
)
def test_each_way_leads_from_an_empty_namespace_to_an_endpoint(way: str) -> None:
    page = (docs.ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    commands = page.partition(f"\n### {way}\n")[2].partition("```bash\n")[2].partition("\n```")[0]
    order = ["export NLP_PIPELINE_HOST=", "--manifests", "--server-image", "kubectl apply", "--doctor", "--submit"]
    places = [commands.find(part) for part in [*order, "--wait", "--predict"]]
    assert -1 not in places and places == sorted(places)
    model, namespace = "--set model_name=reviews", "--set namespace="
    assert commands.count(model) == 2 and len(set(re.findall(rf"{namespace}(\w+)", commands))) == 1


def test_the_page_on_sweeps_compiles_a_training_for_each_value(tmp_path: Path) -> None:
    page = (docs.ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.S)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compiled = yaml.safe_load((tmp_path / "sweep.yaml").read_text(encoding="utf-8"))
    (loop,) = [task for name, task in compiled["root"]["dag"]["tasks"].items() if name.startswith("for-loop")]
    assert json.loads(loop["parameterIterator"]["items"]["raw"]) == [1e-5, 3e-5, 5e-5]
    inner = compiled["components"][loop["componentRef"]["name"]]["dag"]["tasks"]
    rate = inner["train-model"]["inputs"]["parameters"]["learning_rate"]["componentInputParameter"]
    assert rate == loop["parameterIterator"]["itemInput"] and sorted(inner) == ["evaluate-model", "train-model"]
    images = [item["container"]["image"] for item in compiled["deploymentSpec"]["executors"].values()]
    assert len(images) == 3 and set(images) == {"registry.example.com/team/nlp-pipeline-steps:0.1.0"}


def test_the_experiment_of_the_page_on_sweeps_is_whole() -> None:
    page = (docs.ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    spec = yaml.safe_load(text)["spec"]
    job = spec["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    (trial,) = job["containers"]
    assert trial["name"] == spec["trialTemplate"]["primaryContainerName"]
    asked = {item["name"] for item in spec["trialTemplate"]["trialParameters"]}
    assert asked == set(re.findall(r"\$\{trialParameters\.(\w+)\}", trial["command"][-1]))
    assert subprocess.run(["bash", "-nc", trial["command"][-1].replace("trialParameters.", "")]).returncode == 0


def test_the_readme_is_short() -> None:
    assert len((docs.ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250
