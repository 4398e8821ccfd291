"""`python -m nlp_pipeline.docs [--check]`: writes, or checks, the parts of the documentation that are generated."""

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from nlp_pipeline.cli import make_parser, own_parameters
from nlp_pipeline.pipeline.parameters import OTHERS, Parameter, pipeline_parameters

ROOT = Path(__file__).parents[2]
PART = re.compile(r"(<!-- (?P<name>[\w ]+) -->\n).*?(<!-- end -->)", re.S)


def parameter_table(parameters: Iterable[Parameter]) -> str:
    """Returns a table of parameters, as Markdown."""
    lines = ["| parameter | type | default | what it is |", "| --- | --- | --- | --- |"]
    for item in parameters:
        default = "(must be given)" if item.default is None else f"`{item.default}`" if item.default != "" else ""
        description = item.description.replace("|", "\\|")  # which would end the cell
        lines.append(f"| `{item.name}` | {item.kind.__name__} | {default} | {description} |")
    return "\n".join(lines)


def parameters_of(pipeline: str) -> str:
    """Returns a table of the parameters of one of the pipelines beside the one that trains."""
    return parameter_table(pipeline_parameters(pipeline).values())


def performance(summarised: bool = False) -> str:
    """Returns what benchmarks/results.json says, as Markdown with its chart; or a summary in a sentence."""
    from benchmarks.table import summary, table  # which lie beside src/, in the working folder of whoever runs this

    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    return summary(results) if summarised else table(results)


def seeds() -> str:
    """Returns what benchmarks/seeds.json says, as Markdown."""
    from benchmarks.seeds import table

    return table()


PARTS: dict[str, Callable[[], str]] = {
    "parameters": lambda: parameter_table(pipeline_parameters().values()),
    "vertex parameters": lambda: parameter_table(own_parameters("vertex")),
    **{f"{name} parameters": partial(parameters_of, name) for name in OTHERS},
    "help": lambda: f"```text\n{make_parser().format_help().rstrip()}\n```",
    "performance": performance,
    "speed": lambda: performance(summarised=True),
    "seeds": seeds,
}


def generate(text: str) -> str:
    """Returns a page with its generated parts, between `<!-- NAME -->` and `<!-- end -->`, made anew."""
    return PART.sub(lambda match: f"{match[1]}{PARTS[match['name']]()}\n{match[3]}", text)


def main() -> None:
    """Writes the generated parts; with --check, exits 1 with a diff where they are stale."""
    for page in [*sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("README.md")]:
        text = page.read_text(encoding="utf-8")
        current = generate(text)
        if sys.argv[1:] != ["--check"]:
            page.write_text(current, encoding="utf-8")
        elif current != text:
            print("\n".join(difflib.unified_diff(text.splitlines(), current.splitlines(), str(page), "code", n=0)))
            sys.exit(f"{page.relative_to(ROOT)} is stale: make docs")


if __name__ == "__main__":
    main()
