"""The table of what was measured, from results.json."""

from typing import Any

from benchmarks.report import between, number

CHART = "![How many times better than the former pipeline's way, and the targets](../benchmarks/chart.svg)"
SHOWN = ["torch", "transformers", "onnxruntime", "torchserve"]
VERDICTS = {True: "met", False: "**missed**", None: "not told"}


def table(results: dict[str, Any]) -> str:
    """Returns the chart and the table as Markdown.

    Args:
        results: What results.json holds.
    """
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
        lines += ["", profile(results["topics"]["profile"]["figures"])]
    return "\n".join(lines)


def profile(figures: list[dict[str, Any]]) -> str:
    """Returns where the time of one client's request goes, as a sentence.

    Args:
        figures: The parts, and last the whole, whose note tells of the model's operators.
    """
    *parts, whole = figures
    told = ", ".join(f"{one['name']} {number(one['medians']['ours'])}" for one in parts)
    return (
        f"Where the {number(whole['medians']['ours'])} ms of a review go, one client at a time, in ms: {told}; "
        f"{whole['note']}."
    )


def row(figure: dict[str, Any]) -> str:
    """Returns a figure's row: medians, ratios with the lowest and the highest round's, target and verdict."""
    medians: dict[str, float] = figure["medians"]
    unit = f" {figure['unit']}" if figure["unit"] and not figure["name"].endswith(f": {figure['unit']}") else ""
    others = [who for who in medians if who != "ours"]
    against = "<br>".join(f"{who} {number(medians[who])}{unit}" for who in others)
    ratios = [figure["ratios"].get(who) for who in others]
    told = "<br>".join("" if one is None else "too noisy" if "refused" in one else between(one) for one in ratios)
    goals = [f"{target:g}" for target in figure["targets"].values()]
    if figure["limit"] is not None:
        goals.append(f"{'at least' if figure['higher_is_better'] else 'at most'} {number(figure['limit'])}{unit}")
    goal = f"{', '.join(goals)}: {VERDICTS[figure['met']]}" if goals else ""
    return f"| {figure['name']} | {number(medians['ours'])}{unit} | {against} | {told} | {goal} |"
