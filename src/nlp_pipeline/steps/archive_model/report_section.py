"""The report's section on the number format of the archive."""

from html import escape
from typing import Any

# Where the report of `evaluate_model` takes the section; a text in it can't look so, since "<" is escaped.
MARKER = "<!-- archive_model -->"


def precision_section(precision: dict[str, Any]) -> str:
    """Returns the report's section on the archive's number format.

    Args:
        precision: `chosen`, `reason`, and `tried` as `choose_precision` takes it.
    """
    rows = ""
    for name, trial in precision["tried"].items():
        rows += (
            f"<tr><th>{name}<td>{trial['accuracy']:.4f}<td>{100 * trial['drop']:+.2f}<td>{trial['agreement']:.4f}"
            f"<td>{trial['texts_per_second']:.0f}<td>{trial['megabytes']:.1f}\n"
        )
    return (
        f"<section>\n<h2>Number format of the archive: {precision['chosen']}</h2>\n"
        f"<p>Measured on {trial['rows']:,} evaluation rows by the archive's own handler, held against the model before "
        f"it was archived: {escape(precision['reason'])}.\n"
        "<table><tr><th>Number format<th>Accuracy<th>Drop, points<th>Agreement<th>Texts/s<th>MB\n"
        f"{rows}</table>\n</section>\n"
    )


def add_to_report(report: str, section: str) -> str:
    """Returns a report with one more section."""
    return report.replace(MARKER, section)
