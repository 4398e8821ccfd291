"""The report of `evaluate_model`: one HTML page that needs nothing from elsewhere, with inline CSS and SVG only.

Hermetic helpers, inlined into the step as `additional_funcs`. Texts and labels come from users' data: each passes
through `safe_text` on its way to the page.
"""

from typing import Any


def safe_text(value: Any, limit: int = 600) -> str:
    """Returns any value as HTML text that can also stand in a quoted attribute, cut at `limit` characters.

    NUL and other control characters, which HTML forbids, and lone surrogates, which UTF-8 can't express, become
    U+FFFD.
    """
    import html
    import re

    text = str(value)
    if len(text) > limit:
        text = text[:limit].rstrip() + "\u2026"
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text))


def is_finite(value: Any) -> bool:
    """Tells whether a value is a number, and neither NaN nor infinite."""
    import math

    return isinstance(value, (int, float)) and math.isfinite(value)


def format_number(value: Any, digits: int = 3) -> str:
    """Returns a number with so many decimals; "n/a" where there is none, or no finite one."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0:,.{digits}f}" if is_finite(value) else "n/a"


def format_share(value: Any, digits: int = 1) -> str:
    """Returns a share as a percentage that shows 0 and 100 per cent only where they are exact."""
    if not is_finite(value):
        return "n/a"
    least = 10.0**-digits
    if 0 < value * 100 < least:
        return f"&lt;{least:.{digits}f}%"
    return f"&gt;{100 - least:.{digits}f}%" if 100 - least < value * 100 < 100 else f"{value:.{digits}%}"


def label_html(label: Any) -> str:
    """Returns a label as an element that is cut by the layout, tells all in its tooltip and may run right to left."""
    text = safe_text(label)
    return f'<bdi class="label" title="{text}">{text}</bdi>'


def section_html(title: str, told: str, content: str = "") -> str:
    """Returns a section with a heading, a sentence or two under it, and what it shows."""
    return f"<section><h2>{title}</h2><p>{told}</p>{content}</section>\n"


def table_html(heads: list[tuple[str, str]], body: str) -> str:
    """Returns a table with column heads, each a title and attributes."""
    shown = "".join(f'<th scope="col" {attributes}>{title}</th>' for title, attributes in heads)
    return f"<table><thead><tr>{shown}</tr></thead><tbody>{body}</tbody></table>"


def stylesheet() -> str:
    """Returns the page's CSS: blue for right, orange for wrong, a pair that colour-blind readers tell apart."""
    return """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --text: #1c2430; --muted: #586375; --line: #dde2e9;
  --blue: 0 105 170; --orange: 208 92 0; --warn: #a84600; --pale: rgb(128 140 155 / .14); }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1a2028; --text: #e4e8ee; --muted: #9ca7b6;
  --line: #303945; --blue: 86 180 233; --orange: 230 145 40; --warn: #f0a652; } }
* { box-sizing: border-box; }
body { max-width: 1000px; margin: 0 auto; padding: 28px 24px 12px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0; font-size: 26px; line-height: 1.25; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 16px; font-weight: 650; }
p { margin: 0; color: var(--muted); font-size: 14px; max-width: 90ch; text-wrap: pretty; } p + * { margin-top: 14px; }
p .label { max-width: 16rem; } header p { margin: 4px 0 20px; font-size: 15px; overflow-wrap: anywhere; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; } section { background: var(--card); }
section { margin: 0 0 16px; padding: 18px 20px; border: 1px solid var(--line); border-radius: 8px; }
.label { display: inline-block; max-width: 100%; overflow: hidden; text-overflow: ellipsis; vertical-align: bottom; }
.label, thead th { white-space: nowrap; } td .label { white-space: normal; overflow-wrap: anywhere; }
td .label { width: fit-content; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); row-gap: 12px; }
.tiles > div { padding: 0 16px; border-left: 1px solid var(--line); } .tiles .warn { color: var(--warn); }
.tiles > div:first-child { padding-left: 0; border: 0; }
.tiles :is(h2, span) { display: block; margin: 0; font-size: 13px; font-weight: 400; color: var(--muted); }
.tiles strong { display: block; font-size: 28px; line-height: 1.3; font-weight: 600; letter-spacing: -.01em; }
.note { margin-top: 14px; padding-top: 10px; border-top: 1px solid var(--line); font-size: 13px; max-width: none; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr)); column-gap: 16px; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; font-size: 14px; }
th, td { padding: 6px 8px; text-align: start; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 500; } tr > :first-child { padding-left: 0; } tr > :last-child { padding-right: 0; }
thead th { font-size: 13px; color: var(--muted); } tbody tr:last-child > * { border-bottom: 0; }
.end { text-align: end; } .prose, dd { overflow-wrap: anywhere; } .scroll { overflow-x: auto; }
.matrix { border-collapse: separate; border-spacing: 2px; } .matrix .axis { color: var(--muted); font-size: 13px; }
.matrix :is(th, td) { border: 0; padding: 5px 3px; vertical-align: middle; text-align: center; line-height: 1.3; }
.matrix td { border-radius: 3px; } .matrix small { display: block; font-size: 12px; opacity: .85; }
.matrix .side { position: sticky; left: 0; background: var(--card); padding: 0 10px 0 4px; text-align: end; }
.axis i, .wide thead .label { font-style: normal; writing-mode: vertical-rl; transform: rotate(180deg); }
.wide { font-size: 12px; } .wide small { font-size: 10.5px; } .wide thead .label { max-height: 9rem; }
.wide thead th { vertical-align: bottom; } .hit { background: rgb(var(--blue) / calc(.06 + var(--share) * .5)); }
.miss { background: rgb(var(--orange) / calc(.06 + var(--share) * .64)); }
.none { color: var(--muted); background: var(--pale); } .bar { display: flex; align-items: center; gap: 8px; }
.bar :is(i, b) { display: block; flex: 1; height: 8px; border-radius: 2px; background: var(--pale); }
.bar b { background: rgb(var(--blue)); } td:nth-child(-n + 3) b { opacity: .6; } .bar span { width: 3em; }
svg { display: block; width: 100%; max-width: 560px; font-size: 12px; } svg text { fill: var(--muted); }
.grid { stroke: var(--line); } .gap { stroke: rgb(var(--orange)); stroke-width: 1.5; }
.curve { fill: none; stroke: rgb(var(--blue)); stroke-width: 2; stroke-linejoin: round; }
.dot { fill: rgb(var(--blue)); fill-opacity: .8; } .ideal { stroke: var(--muted); stroke-dasharray: 4 4; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 20px; margin: 0; font-size: 14px; }
dt { color: var(--muted); } dd { margin: 0; }
"""


def stat_tiles(result: dict[str, Any]) -> str:
    """Returns the four headline numbers, each beside its baseline, and says where the model does not beat it."""
    tiles = ""
    for title, key, better in (("Accuracy", "accuracy", 1), ("Macro F1", "macro_f1", 1), ("Log loss", "log_loss", -1)):
        value, baseline = result[key], result[f"majority_{key}"]
        shown = [format_share(one) if key == "accuracy" else format_number(one) for one in (value, baseline)]
        tiles += f"<div><h2>{title}</h2><strong>{shown[0]}</strong><span>baseline {shown[1]}</span>"
        # Asked so that a value which is no number beats nothing.
        tiles += "" if value * better > baseline * better else '<span class="warn">no better</span>'
        tiles += "</div>"
    error = format_number(result["expected_calibration_error"])
    return (
        f'<section aria-label="Headline numbers"><div class="tiles">{tiles}<div><h2>Calibration error</h2>'
        f'<strong>{error}</strong><span>0 is perfect</span></div></div><p class="note">The baseline always names the '
        f"most frequent class, {label_html(result['majority_label'])}; for the log loss, of which less is better, it "
        "gives the classes&#8217; shares of the rows. The calibration error is the expected one (ECE): how far scores "
        "are from the share that is right, on average.</p></section>\n"
    )


def confusion_section(result: dict[str, Any]) -> str:
    """Returns the confusion matrix as a heat table, or the most confused pairs where it would be too large to read."""
    labels = [label_html(one["label"]) for one in result["per_class"]]
    if len(labels) > 20:
        return confused_pairs(labels, result["confusion"])
    # Many columns leave no room for labels side by side: they stand upright, in small type.
    wide = len(labels) > 8
    body = ""
    for at, counts in enumerate(result["confusion"]):
        cells = ""
        for other, count in enumerate(counts):
            share = count / sum(counts) if sum(counts) else 0.0
            kind = "none" if not count else "hit" if at == other else "miss"
            percentage = format_share(share, 0 if wide else 1) if sum(counts) else "&#8211;"
            cells += f'<td class="{kind}" style="--share: {share:.3f}">{count:,}<small>{percentage}</small></td>'
        axis = f'<th class="axis" scope="rowgroup" rowspan="{len(labels)}"><i>True</i></th>' if at == 0 else ""
        body += f'<tr>{axis}<th class="side" scope="row">{labels[at]}</th>{cells}</tr>'
    heads = "".join(f'<th scope="col">{label}</th>' for label in labels)
    size = f"max-width: {len(labels) * 130 + 200}px; min-width: {len(labels) * (36 if wide else 60) + 130}px"
    told = (
        "How many rows of each true class (down) were given each class (across), and which share of the true "
        "class that is: blue where right, orange where wrong, deeper for larger shares."
    )
    table = (
        '<div class="scroll" role="region" aria-label="Confusion matrix" tabindex="0">'
        f'<table class="matrix{" wide" if wide else ""}" style="{size}"><colgroup><col style="width: 26px">'
        f'<col style="width: 18%"></colgroup><colgroup span="{len(labels)}"></colgroup>'
        f'<thead><tr><td colspan="2"></td><th class="axis" scope="colgroup" colspan="{len(labels)}">Predicted</th></tr>'
        f'<tr><td colspan="2"></td>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )
    return section_html("Confusion matrix", told, table)


def confused_pairs(labels: list[str], confusion: list[list[int]]) -> str:
    """Returns the 20 pairs of true and predicted class that were confused most; the labels are HTML."""
    several = range(len(labels))
    pairs = [(confusion[at][to], at, to) for at in several for to in several if at != to and confusion[at][to]]
    pairs.sort(key=lambda pair: -pair[0])
    body = "".join(
        f'<tr><td>{labels[at]}</td><td>{labels[to]}</td><td class="end">{count:,}</td>'
        f'<td class="end">{format_share(count / sum(confusion[at]))}</td></tr>'
        for count, at, to in pairs[:20]
    )
    if not pairs:
        return section_html("Confused classes", "No class was taken for another.")
    told = (
        f"The matrix of {len(labels)} classes is too large to read: these are the {min(20, len(pairs))} most frequent "
        f"of {len(pairs):,} pairs of classes of which one was taken for the other."
    )
    heads = [("True", ""), ("Predicted", ""), ("Rows", 'class="end" style="width: 6rem"')]
    heads.append(("Of the true class", 'class="end" style="width: 9rem"'))
    return section_html("Confused classes", told, table_html(heads, body))


def class_bars(result: dict[str, Any]) -> str:
    """Returns precision, recall, F1 and support of each class, of the 30 with the lowest F1 where there are more."""
    per_class = [dict(one) for one in result["per_class"]]
    for at, one in enumerate(per_class):
        if not one["support"] and not any(counts[at] for counts in result["confusion"]):
            # 0, scikit-learn's stand-in for 0 / 0, would rank a class that never occurs as the worst.
            one.update(precision=None, recall=None, f1=None)
    told = "Support is how many rows have the class."
    if len(per_class) > 30:
        told = f"The 30 of {len(per_class)} classes with the lowest F1, the lowest first. {told}"
        per_class = sorted(per_class, key=lambda one: one["f1"] if is_finite(one["f1"]) else 2.0)[:30]
    body = ""
    for one in per_class:
        body += f'<tr><th scope="row">{label_html(one["label"])}</th>'
        for key in ("precision", "recall", "f1"):
            bar = f'<i><b style="width: {100 * one[key] if is_finite(one[key]) else 0:.1f}%"></b></i>'
            body += f'<td><div class="bar">{bar}<span>{format_number(one[key])}</span></div></td>'
        body += f'<td class="end">{one["support"]:,}</td></tr>'
    heads = [("Class", 'style="width: 28%"'), ("Precision", ""), ("Recall", ""), ("F1", "")]
    heads.append(("Support", 'class="end" style="width: 4.5rem"'))
    return section_html("Classes", told, table_html(heads, body))


def nice_ticks(low: float, high: float, least_step: float = 0.0) -> list[float]:
    """Returns equally distant round numbers, few of them, from one not above `low` to one not below `high`."""
    import math

    span = max(high - low, abs(high) / 1000) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = max(least_step, next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 5))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [at * step for at in range(first, last + 1)]


def chart_point(x: float, y: float, x_ticks: list[float], y_ticks: list[float]) -> tuple[float, float]:
    """Returns where a value lies in a chart: the plot is 390 by 246 units, its top left at (56, 12)."""
    across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
    up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
    return round(56 + 390 * across, 1), round(258 - 246 * up, 1)


def chart(told: str, axes: tuple[str, str], x_ticks: list[float], y_ticks: list[float], marks: str) -> str:
    """Returns an SVG chart with grid, ticks and axis labels.

    `told` says in words what the chart shows; `axes` are the labels across and up; `marks` is the SVG of what is shown,
    placed by `chart_point`.
    """
    grid = ""
    for tick in x_ticks:
        x, y = chart_point(tick, y_ticks[0], x_ticks, y_ticks)
        grid += f'<line class="grid" x1="{x}" y1="12" x2="{x}" y2="{y}"/>'
        grid += f'<text x="{x}" y="{y + 17}" text-anchor="middle">{tick:,.7g}</text>'
    for tick in y_ticks:
        x, y = chart_point(x_ticks[0], tick, x_ticks, y_ticks)
        grid += f'<line class="grid" x1="{x}" y1="{y}" x2="446" y2="{y}"/>'
        grid += f'<text x="{x - 7}" y="{y + 4}" text-anchor="end">{tick:,.4g}</text>'
    return (
        f'<svg viewBox="0 0 470 304" role="img" aria-label="{safe_text(told)}">{grid}{marks}'
        f'<text x="251" y="299" text-anchor="middle">{axes[0]}</text>'
        f'<text transform="translate(12 135) rotate(-90)" text-anchor="middle">{axes[1]}</text></svg>'
    )


def calibration_section(result: dict[str, Any]) -> str:
    """Returns the calibration curve; a point's area tells its rows, and a line its distance from the diagonal."""
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    bins = [one for one in result["calibration"] if is_finite(one["confidence"]) and is_finite(one["accuracy"])]
    most = max((one["rows"] for one in bins), default=1)
    gaps, dots, path = "", "", []
    for one in bins:
        x, y = chart_point(one["confidence"], one["accuracy"], ticks, ticks)
        diagonal = chart_point(one["confidence"], one["confidence"], ticks, ticks)[1]
        path.append(f"{x},{y}")
        gaps += f'<line class="gap" x1="{x}" y1="{diagonal}" x2="{x}" y2="{y}"/>'
        dots += (
            f'<circle class="dot" cx="{x}" cy="{y}" r="{3 + 8 * (one["rows"] / most) ** 0.5:.1f}"><title>score '
            f"{one['confidence']:.3f}, right {format_share(one['accuracy'])}, rows {one['rows']:,}</title></circle>"
        )
    marks = f'<line class="ideal" x1="56" y1="258" x2="446" y2="12"/>{gaps}'
    marks += f'<polyline class="curve" points="{" ".join(path)}"/>{dots}'
    told = "Share that is right at mean score: "
    told += ", ".join(f"{one['accuracy']:.2f} at {one['confidence']:.2f}" for one in bins)
    how = (
        "On the dashed line a score is the chance of being right; below it the model is surer than it should be, above "
        "it less sure, and larger points stand for more rows."
    )
    axes = ("Mean score of the predicted class", "Share that is right")
    return section_html("Calibration", how, chart(told, axes, ticks, ticks, marks))


def loss_section(trained: dict[str, Any]) -> str:
    """Returns the loss curve; losses that are not finite leave gaps in it, and are counted."""
    parts: list[list[tuple[float, float]]] = [[]]
    curve = trained.get("loss_curve") or []
    for step, loss in curve:
        if is_finite(loss):
            parts[-1].append((step, loss))
        else:
            parts.append([])
    known = [point for part in parts for point in part]
    lost = f" {len(curve) - len(known)} of {len(curve)} values are not finite." if len(known) < len(curve) else ""
    if not known:
        return section_html("Training loss", f"There is no curve: no finite loss was logged.{lost}")
    low, high = min(loss for _, loss in known), max(loss for _, loss in known)
    # From 0 on where that leaves the curve at least half of the height.
    y_ticks = nice_ticks(min(low, 0.0) if low < high / 2 or low == high else low, high)
    x_ticks = nice_ticks(0.0, known[-1][0], least_step=1.0)
    marks = ""
    for part in parts:
        points = [chart_point(step, loss, x_ticks, y_ticks) for step, loss in part]
        marks += f'<polyline class="curve" points="{" ".join(f"{x},{y}" for x, y in points)}"/>' if points else ""
        # A value between two gaps makes no line.
        marks += "".join(f'<circle class="dot" cx="{x}" cy="{y}" r="4"/>' for x, y in points if len(points) == 1)
    first, last = (f"{format_number(loss)} at step {step:,}" for step, loss in (known[0], known[-1]))
    told = f"{first} to {last}, each value a mean over the steps before it" if len(known) > 1 else first
    content = chart(f"Training loss: {told}", ("Training step", "Loss"), x_ticks, y_ticks, marks)
    return section_html("Training loss", f"{told}.{lost}", content)


def mistakes_section(rows: list[tuple[str, str, str, float]]) -> str:
    """Returns the wrong rows of which the model was surest, where wrong labels and odd texts come to light."""
    import heapq

    wrong = [row for row in rows if row[1] != row[2]]
    if not wrong:
        return section_html("Most confident mistakes", "There are none: every row is right.")
    worst = heapq.nlargest(20, wrong, key=lambda row: row[3] if is_finite(row[3]) else -1.0)
    body = "".join(
        f"<tr><td>{format_number(score, 4)}</td><td>{label_html(true)}</td><td>{label_html(predicted)}</td>"
        f'<td class="prose" dir="auto">{safe_text(text)}</td></tr>'
        for text, true, predicted, score in worst
    )
    told = f"{len(worst)} of {len(wrong):,} wrong rows, the highest score first. Wrong labels often turn up here."
    heads = [("Score", 'style="width: 4.5rem"'), ("True", 'style="width: 16%"'), ("Predicted", 'style="width: 16%"')]
    return section_html("Most confident mistakes", told, table_html([*heads, ("Text", "")], body))


def training_section(trained: dict[str, Any]) -> str:
    """Returns how the model was trained."""
    resumed = trained.get("resumed_from_step")
    facts = {
        "Device": safe_text(trained.get("device", "n/a")),
        "Number format": f"{safe_text(trained.get('dtype', 'n/a'))} ({safe_text(trained.get('reason', 'n/a'))})",
        "Rows": format_number(trained.get("rows"), 0),
        "Parameters": format_number(trained.get("parameters"), 0),
        "Steps": format_number(trained.get("steps"), 0)
        + (f", gone on from a checkpoint at step {format_number(resumed, 0)}" if resumed else ""),
        "Samples a second": format_number(trained.get("samples_per_second"), 1),
        "Loss at the end": format_number(trained.get("train_loss")),
    }
    shown = "".join(f"<dt>{title}</dt><dd>{fact}</dd>" for title, fact in facts.items())
    return f"<footer><section><h2>How it was trained</h2><dl>{shown}</dl></section></footer>"


def render_report(
    model_name: str,
    run_id: str,
    result: dict[str, Any],
    trained: dict[str, Any],
    rows: list[tuple[str, str, str, float]],
) -> str:
    """Renders what is known of a model as one page, without scripts and without anything fetched from elsewhere.

    Args:
        model_name: Name of the model.
        run_id: The pipeline run's id.
        result: What `compute_metrics` returns.
        trained: What `train_model` told: device, dtype, reason, steps, loss_curve and more.
        rows: For each evaluation row its text, true label, predicted label and the predicted label's score.

    Returns:
        The HTML.
    """
    name = safe_text(model_name)
    rows_told = "1 row" if result["rows"] == 1 else f"{result['rows']:,} rows"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: evaluation</title><style>{stylesheet()}</style></head><body><main>"
        f"<header><h1><bdi>{name}</bdi></h1><p>Evaluated on {rows_told} of {len(result['per_class']):,} "
        f"classes in run <code>{safe_text(run_id)}</code></p></header>"
        f"{stat_tiles(result)}{confusion_section(result)}{class_bars(result)}"
        f'<div class="pair">{calibration_section(result)}{loss_section(trained)}</div>'
        f"{mistakes_section(rows)}{training_section(trained)}</main></body></html>\n"
    )
