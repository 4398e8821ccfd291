"""How results are printed: as one JSON document, or as lines and tables that people read."""

import json
from typing import Any


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Prints what a command gives: as JSON, or a line for each fact."""
    if as_json:
        print(json.dumps(result, indent=2, default=str))
        return
    for key, value in result.items():
        if isinstance(value, (dict, list)):
            pairs = value.items() if isinstance(value, dict) else enumerate(value, 1)
            for name, item in pairs:
                print(f"{key:<17} {name}: {item}")
        elif value not in ("", None):
            text = f"{value:.4g}" if isinstance(value, float) and value < 1000 else value
            print(f"{key:<17} {text}")


def print_rows(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """Prints a list: as JSON, or as a table of some columns."""
    if as_json:
        print(json.dumps(rows, indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    # An id that is cut can't be given to another command: a narrow terminal breaks the line instead. A file or a pipe
    # has no width that lines had to be broken to.
    console.width = max(console.width, 160) if console.is_terminal else 200
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text("" if row[column] is None else str(row[column])) for column in columns))
    console.print(table)
