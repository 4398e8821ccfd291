"""What was measured as text, for the terminal and, from results.json, as the table of the documentation."""

from typing import Any

CHART = "![How many times better than the former pipeline's way, and the targets](../benchmarks/chart.svg)"
SHOWN = ["torch", "transformers", "onnxruntime", "torchserve"]
VERDICTS = {True: "met", False: "**missed**", None: "unclear"}


def number(value: float) -> str:
    """Returns a number with three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(ratio: dict[str, Any] | None) -> str:
    """Returns a ratio with the lowest and the highest round's, or why there is none."""
    if ratio is None or "refused" in ratio:
        return ratio["refused"] if ratio else ""
    if ratio["low"] == ratio["high"]:
        return f"{ratio['median']:.2f}"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def goal(figure: dict[str, Any]) -> str:
    """Returns a figure's targets and limit, and whether they are met; nothing where it has none."""
    several = len(figure["targets"]) > 1
    goals = [f"{target:g}{f' against {other}' * several}" for other, target in figure["targets"].items()]
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
        lines += [f"    {line}" for line in (goal(figure), figure["note"]) if line]
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
    ]
    topics = {name: topic["figures"] for name, topic in results["topics"].items()}
    lines += [line for figures in topics.values() for line in comparison(figures)]
    lines += ["", "| what | ours | against | times better | target |", "| --- | --- | --- | --- | --- |"]
    for figures in topics.values():
        lines += [row(each) for each in figures if each["shown"] or each["targets"] or each["limit"] is not None]
    if "profile" in topics:
        *parts, whole = topics["profile"]
        shares = ", ".join(f"{part['name']} {number(part['medians']['ours'])}" for part in parts)
        lines += ["", f"Where the {number(whole['medians']['ours'])} ms of a review go, one client at a time, in ms: "]
        lines[-1] += f"{shares}; {whole['note']}."
    return "\n".join(lines)


def summary(results: dict[str, Any]) -> str:
    """Returns in a sentence what the goals against other servers are about, with each figure's best peer."""
    machine = results["machine"]
    figures = results["topics"].get("peers", {"figures": []})["figures"]
    goals = [figure for figure in figures if figure["column"] and figure["targets"]]
    if not goals:
        return "Not measured yet."
    flags = ", ".join(flag for flag in machine["flags"] if flag.startswith("amx") or "_" in flag)
    parts = []
    for figure in goals:
        *_, best = figure["targets"]
        unit = "" if figure["name"].endswith(f": {figure['unit']}") else f" {figure['unit']}"
        ours, others = (number(figure["medians"][who]) for who in ("ours", best))
        ratio = figure["ratios"][best]
        better = ratio.get("refused") or f"{times(ratio)} times better"
        parts.append(f"{figure['name']} {ours}{unit}, the best other {others}{unit} ({best}), {better}")
    return f"On {machine['cpus']} processors of {machine['cpu']} ({flags}): {'; '.join(parts)}."


def comparison(figures: list[dict[str, Any]]) -> list[str]:
    """Returns the lines of a topic's comparison: a row for each server, a column for each figure that has one."""
    columns = [figure for figure in figures if figure.get("column")]
    missing = {name: why for figure in columns for name, why in figure["details"].get("missing", {}).items()}
    names = dict.fromkeys(name for figure in columns for name in figure["medians"])
    if not names:
        return []
    lines = [
        "",
        f"| server | {' | '.join(figure['column'] for figure in columns)} |",
        "| --- |" + " --- |" * len(columns),
    ]
    for name in names:
        cells = (number(figure["medians"][name]) if name in figure["medians"] else "" for figure in columns)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"| {name} | could not be measured: {why.replace('|', ' ')} |" for name, why in missing.items()]
    return lines


def row(figure: dict[str, Any]) -> str:
    """Returns a figure's row: medians, ratios with the lowest and the highest round's, target and verdict."""
    medians: dict[str, float] = figure["medians"]
    unit = f" {figure['unit']}" if figure["unit"] and not figure["name"].endswith(f": {figure['unit']}") else ""
    # What stands in a comparison above is not repeated, but what a target is about.
    others = [who for who in (figure["targets"] if figure.get("column") else medians) if who != "ours"]
    against = "<br>".join(f"{who} {number(medians[who])}{unit}" for who in others)
    ratios = "<br>".join(times(figure["ratios"].get(who)).partition(":")[0] for who in others)
    return f"| {figure['name']} | {number(medians['ours'])}{unit} | {against} | {ratios} | {goal(figure)} |"
