"""What is reported on the number format of the archive: as a page, and as a section of the evaluation's report."""

from html import escape
from pathlib import Path
from typing import Any

from nlp_pipeline.volume import Run

# Where the report of `evaluate_model` takes the section; a text in it can't look so, since "<" is escaped.
MARKER = "<!-- archive_model -->"
HEAD = '<!DOCTYPE html>\n<meta charset="utf-8">\n<style>* { font: 15px system-ui; padding: 4px; text-align: start }</style>\n'


def write_report(precision: dict[str, Any], page: Path, run: Run) -> None:
    """Writes the page, and adds the section to the report in the run's folder, where it is there.

    Args:
        precision: `chosen`, `reason`, and `tried` as `choose_precision` takes it.
        page: The page to write.
        run: The run.
    """
    section = render_section(precision)
    if run.folder and (report := run.folder / "report.html").is_file():
        page.write_text(report.read_text(encoding="utf-8").replace(MARKER, section), encoding="utf-8")
        run.keep(page, report.name)
    page.write_text(HEAD + section, encoding="utf-8")


def render_section(precision: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{name}<td>{trial['accuracy']:.4f}<td>{100 * trial['drop']:+.2f}<td>{trial['agreement']:.4f}"
        f"<td>{trial['texts_per_second']:.0f}<td>{trial['megabytes']:.1f}\n"
        for name, trial in precision["tried"].items()
    )
    return (
        f"<section>\n<h2>Number format of the archive: {precision['chosen']}</h2>\n"
        f"<p>Measured on {precision['tried'][precision['chosen']]['rows']:,} evaluation rows by the archive's own handler, held against the model before "
        f"it was archived: {escape(precision['reason'])}.\n"
        "<table><tr><th>Number format<th>Accuracy<th>Drop, points<th>Agreement<th>Texts/s<th>MB\n"
        f"{rows}</table>\n</section>\n"
    )
