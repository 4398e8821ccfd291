"""`python -m nlp_pipeline.readme [--check]`: writes, or checks, the parts of the README that are generated."""

import contextlib
import difflib
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from nlp_pipeline.flags import make_parser
from nlp_pipeline.pipeline.parameters import Parameter, pipeline_parameters

README = Path(__file__).parents[2] / "README.md"


def parameter_table(parameters: Iterable[Parameter]) -> str:
    """Returns a table of parameters, as Markdown."""
    lines = ["| parameter | type | default | what it is |", "| --- | --- | --- | --- |"]
    for one in parameters:
        default = "(must be given)" if one.default is None else f"`{one.default}`" if one.default != "" else ""
        lines.append(f"| `{one.name}` | {one.kind.__name__} | {default} | {one.description} |")
    return "\n".join(lines)


def help_text() -> str:
    """Returns what `--help` prints, as a Markdown code block."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        make_parser().print_help()
    return f"```text\n{text.getvalue().rstrip()}\n```"


def performance() -> str:
    """Returns what benchmarks/results.json tells, as Markdown with its chart."""
    from benchmarks.table import table  # which lies beside the README, as the working folder of whoever runs this

    results = README.parent / "benchmarks" / "results.json"
    if not results.exists():
        return "Not measured yet."
    return table(json.loads(results.read_text(encoding="utf-8")))


def generate(text: str) -> str:
    """Returns the README with its generated parts, between `<!-- NAME -->` and `<!-- end -->`, made anew.

    Args:
        text: The README.
    """
    kubeflow, vertex = pipeline_parameters(), pipeline_parameters("vertex")
    parts = {
        "vertex parameters": parameter_table(one for one in vertex.values() if one not in kubeflow.values()),
        "parameters": parameter_table(kubeflow.values()),
        "performance": performance(),
        "help": help_text(),
    }
    for name, part in parts.items():
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not marker or not end:
            sys.exit(f"README.md lacks the markers <!-- {name} --> and <!-- end -->")
        text = f"{before}{marker}{part}\n{end}{after}"
    return text


def main() -> None:
    """Writes the README's generated parts; with --check, exits 1 with a diff where they are stale."""
    text = README.read_text(encoding="utf-8")
    current = generate(text)
    if sys.argv[1:] != ["--check"]:
        README.write_text(current, encoding="utf-8")
    elif current != text:
        print("\n".join(difflib.unified_diff(text.splitlines(), current.splitlines(), "README.md", "the code", n=0)))
        sys.exit("README.md is stale: make readme")


if __name__ == "__main__":
    main()
