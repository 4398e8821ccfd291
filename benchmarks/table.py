"""What was measured as text, for the terminal and, from results.json, as the table of the documentation."""

from typing import Any

CHART = "![How many times better than the former pipeline's way, and the targets](../benchmarks/chart.svg)"
SHOWN = ["torch", "transformers", "onnxruntime", "torchserve"]
VERDICTS = {True: "met", False: "**missed**", None: "not told"}


def number(value: float) -> str:
    """Returns a number with three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(found: dict[str, Any] | None) -> str:
    """Returns a ratio with the lowest and the highest round's, or why it must not be told."""
    if found is None or "refused" in found:
        return found["refused"] if found else ""
    if found["low"] == found["high"]:
        return f"{found['median']:.2f}"
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def goal(figure: dict[str, Any]) -> str:
    """Returns a figure's targets and limit, and whether they are met; nothing where it has none."""
    goals = [f"{target:g}" for target in figure["targets"].values()]
    if figure["limit"] is not None:
        most = "at least" if figure["higher_is_better"] else "at most"
        goals.append(f"{most} {number(figure['limit'])} {figure['unit']}")
    return f"{', '.join(goals)}: {VERDICTS[figure['met']]}" if goals else ""


def show(topic: str, records: list[dict[str, Any]]) -> str:
    """Returns a topic's figures as lines of text: medians, spreads, ratios or why there are none, and targets."""
    lines = [topic]
    for figure in records:
        lines.append(f"  {figure['name']}")
        for who, samples in figure["samples"].items():
            spread = f", ±{50 * figure['spreads'][who]:.0f}%" if len(samples) > 1 else ""
            value = f"{number(figure['medians'][who]):>9} {figure['unit']}{spread}"
            lines.append(f"    {who:<32} {value:<30} {times(figure['ratios'].get(who))}".rstrip())
        lines += [f"    {told}" for told in (goal(figure), figure["note"]) if told]
    return "\n".join(lines)


def table(results: dict[str, Any]) -> str:
    """Returns the chart and the table of what results.json holds, as Markdown."""
    machine, versions = results["machine"], results["versions"]
    kinds = ", ".join(flag for flag in machine["flags"] if not flag.startswith("avx2"))
    dates = sorted({topic["date"] for topic in results["topics"].values()})
    lines = [
        CHART,
        "",
        f"{machine['cpus']} processors of {machine['cpu']} ({kinds}), {machine['memory_gb']} GB, "
        f"{', '.join(f'{name} {version}' for name, version in versions.items() if name in SHOWN)}; "
        f"measured on {' and '.join(dates)}.",
        "",
        "| what | ours | against | times better | target |",
        "| --- | --- | --- | --- | --- |",
    ]
    for topic in results["topics"].values():
        lines += [row(one) for one in topic["figures"] if one["shown"] or one["targets"] or one["limit"] is not None]
    if "profile" in results["topics"]:
        *parts, whole = results["topics"]["profile"]["figures"]
        told = ", ".join(f"{one['name']} {number(one['medians']['ours'])}" for one in parts)
        lines += ["", f"Where the {number(whole['medians']['ours'])} ms of a review go, one client at a time, in ms: "]
        lines[-1] += f"{told}; {whole['note']}."
    return "\n".join(lines)


def row(figure: dict[str, Any]) -> str:
    """Returns a figure's row: medians, ratios with the lowest and the highest round's, target and verdict."""
    medians: dict[str, float] = figure["medians"]
    unit = f" {figure['unit']}" if figure["unit"] and not figure["name"].endswith(f": {figure['unit']}") else ""
    others = [who for who in medians if who != "ours"]
    against = "<br>".join(f"{who} {number(medians[who])}{unit}" for who in others)
    ratios = "<br>".join(times(figure["ratios"].get(who)).partition(":")[0] for who in others)
    return f"| {figure['name']} | {number(medians['ours'])}{unit} | {against} | {ratios} | {goal(figure)} |"
