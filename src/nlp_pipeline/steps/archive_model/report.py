"""The page on the archive's number format, which the evaluation's report gets as a section."""

from html import escape
from pathlib import Path
from typing import Any

from nlp_pipeline.volume import Run

# Where the report of `evaluate_model` takes the section; a text in it can't look so, since "<" is escaped.
MARKER = "<!-- archive_model -->"
HEAD = """\
<!DOCTYPE html>
<meta charset="utf-8">
<style>body { font: 15px system-ui } th, td { padding: 4px 16px 4px 0; text-align: start }</style>
"""


def write_report(precision: dict[str, Any], page: Path, run: Run) -> None:
    """Writes the page, and adds it to the report in the run's folder.

    `precision` has what was `chosen`, the `reason`, and `tried`, which `choose_precision` knows as `trials`.
    """
    section = render_section(precision)
    if run.folder and (report := run.folder / "report.html").is_file():
        page.write_text(report.read_text(encoding="utf-8").replace(MARKER, section), encoding="utf-8")
        run.keep(page, report.name)
    page.write_text(HEAD + section, encoding="utf-8")


def render_section(precision: dict[str, Any]) -> str:
    """Returns the section, in HTML."""
    tried = precision["tried"]
    rows = "".join(
        f"<tr><th>{name}<td>{trial['accuracy']:.4f}<td>{100 * trial['drop']:+.2f}<td>{trial['agreement']:.4f}"
        f"<td>{trial['texts_per_second']:.0f}<td>{trial['megabytes']:.1f}\n"
        for name, trial in tried.items()
    )
    return (
        f"<section>\n<h2>Number format of the archive: {precision['chosen']}</h2>\n"
        f"<p>Measured on {tried[precision['chosen']]['rows']:,} evaluation rows by the archive's own handler, held "
        f"against the model before it was archived: {escape(precision['reason'])}.\n"
        "<table><tr><th>Number format<th>Accuracy<th>Drop, points<th>Agreement<th>Texts/s<th>MB\n"
        f"{rows}</table>\n</section>\n"
    )
