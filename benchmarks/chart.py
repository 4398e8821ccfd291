"""The chart: how many times better ours is, a bar for each figure that has a target, as an SVG."""

from pathlib import Path
from typing import Any

import jinja2

WIDTH = 368  # of the longest bar


def chart(results: dict[str, Any]) -> str:
    """Returns the chart of what results.json holds."""
    bars = [
        (figure["name"], other, figure["ratios"][other], target)
        for topic in results["topics"].values()
        for figure in topic["figures"]
        for other, target in figure["targets"].items()
        if other in figure["ratios"]
    ]
    highest = 1.05 * max([1.0, *(value for *_, ratio, target in bars for value in (ratio.get("high", 0.0), target))])
    # Four to eight lines of a grid; more where the highest is beyond 80.
    step = next((step for step in (0.5, 1.0, 2.0, 5.0) if highest / step <= 8), 10.0)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("chart.svg.jinja")
    grid = [count * step for count in range(int(highest / step) + 1)]
    return template.render(bars=bars, grid=grid, scale=WIDTH / highest) + "\n"
