"""The chart: how many times better ours is, a bar for each figure that has a target, as an SVG."""

import math
from typing import Any
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 800, 340, 92, 34, 40
# GitHub shows the picture on a light or a dark page; the picture has no background of its own.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
.bar { fill: #2f81f7 } .missed { fill: #bf8700 }
.line { stroke: #59636e; stroke-width: 1.5 } .grid { stroke: #d1d9e0 } .target { stroke: #1a7f37; stroke-width: 2.5 }
.goal { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #9198a1 } .missed { fill: #d29922 }
.line { stroke: #9198a1 } .grid { stroke: #3d444d } .target { stroke: #3fb950 } .goal { fill: #3fb950 }
}"""


def bars(results: dict[str, Any]) -> list[tuple[str, str, dict[str, Any], float]]:
    """Returns what the chart shows: a figure's name, what it is held against, the ratio and the target."""
    return [
        (figure["name"], other, figure["ratios"][other], target)
        for topic in results["topics"].values()
        for figure in topic["figures"]
        for other, target in figure["targets"].items()
        if other in figure["ratios"]
    ]


def step_of(highest: float) -> float:
    """Returns the distance of grid lines, such that there are four to eight of them."""
    return next(step for step in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, math.inf) if highest / step <= 8)


def chart(results: dict[str, Any]) -> str:
    """Returns the chart.

    Args:
        results: What results.json holds.
    """
    shown = bars(results)
    told = [value for _, _, found, target in shown for value in (found.get("high", 0.0), target)]
    highest = 1.05 * max([1.0, *told])
    height = TOP + ROW * len(shown) + 28
    scale = (WIDTH - LEFT - RIGHT) / highest

    def at(value: float) -> str:
        return f"{LEFT + value * scale:.1f}"

    bottom = TOP + ROW * len(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'role="img" aria-label="How many times better than the former pipeline">',
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="20">times better than before, and the <tspan class="goal">target</tspan></text>',
    ]
    step = step_of(highest)
    for count in range(int(highest / step) + 1):
        x = at(count * step)
        parts.append(f'<line class="grid" x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{bottom}"/>')
        parts.append(f'<text class="small" x="{x}" y="{bottom + 16}" text-anchor="middle">{count * step:g}</text>')
    for row, (name, other, found, target) in enumerate(shown):
        middle = TOP + ROW * row + ROW / 2
        parts.append(f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<text class="small" x="{LEFT - 10}" y="{middle + 13}" text-anchor="end">against {escape(other)}</text>'
        )
        goal = at(target)
        if "refused" in found:
            parts.append(f'<text class="small" x="{LEFT + 8}" y="{middle + 4}">too noisy to tell</text>')
        else:
            kind = "bar" if found["median"] >= target else "bar missed"
            width = f"{found['median'] * scale:.1f}"
            parts.append(f'<rect class="{kind}" x="{LEFT}" y="{middle - 9}" width="{width}" height="18" rx="2"/>')
            parts.append(
                f'<line class="line" x1="{at(found["low"])}" y1="{middle}" x2="{at(found["high"])}" y2="{middle}"/>'
            )
            end = found["high"] * scale
            if end <= target * scale <= end + 44:  # the number shall not stand across the target's line
                end = target * scale
            parts.append(f'<text x="{LEFT + end + 8:.1f}" y="{middle + 4}">{found["median"]:.2f}</text>')
        parts.append(f'<line class="target" x1="{goal}" y1="{middle - 13}" x2="{goal}" y2="{middle + 13}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
