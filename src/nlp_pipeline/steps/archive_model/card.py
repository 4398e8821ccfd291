"""The model card of a release, as Hugging Face's hub reads it: a YAML header, and what people ask of a model."""

import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from nlp_pipeline.release import Release
from nlp_pipeline.steps.archive_model.precision import describe as summarise
from nlp_pipeline.steps.evaluate_model.gate import describe as compare

FIGURES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "log_loss": "Log loss",
    "expected_calibration_error": "Expected calibration error",
}
MOST_LABELS = 50
# A name of the hub, as in owner/model; it has no card where the base model is a folder.
HUB_NAME = r"[\w.-]+(/[\w.-]+)?"


def write_card(release: Release, target: Path) -> None:
    """Writes a release's card, by its record alone."""
    base_model = release.parameters.get("base_model", "")
    is_known = re.fullmatch(HUB_NAME, base_model) and not Path(base_model).exists()
    header = ModelCardData(
        base_model=base_model if is_known else None,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["nlp-pipeline"],
        model_name=release.model_name,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type="custom",
                dataset_name="evaluation rows",
                metric_type=name,
                metric_name=title,
                metric_value=release.metrics[name],
            )
            for name, title in FIGURES.items()
            if name in release.metrics
        ],
    )
    target.write_text(f"---\n{header.to_yaml()}\n---\n\n{describe(release)}", encoding="utf-8")


def describe(release: Release) -> str:
    """Returns the card's text, in Markdown."""
    parameters, precision, name = release.parameters, release.precision, release.model_name
    labels = ", ".join(code(label) for label in release.labels[:MOST_LABELS])
    if (more := len(release.labels) - MOST_LABELS) > 0:
        labels += f" and {more} more"
    length = int(parameters["max_length"])
    chosen, reason = precision["chosen"], precision["reason"]
    if (measured := summarise(precision["tried"][chosen])) not in reason:
        reason += f"; it {measured}"
    compared = f"{compare(release.champion, 0)}." if release.champion else ""
    item, always = '{"label": ..., "score": ...}', "It always answers with one of its labels, whatever the text"
    read = f"the first {length} tokens"
    if "long_texts" in parameters:
        read = "its first windows" if parameters["long_texts"] == "windows" else "its beginning and its end"
        read += f" (`long_texts={parameters['long_texts']}`, {length} tokens at once)"
    if "thresholds" in parameters:
        item = f'{{"labels": [{item}, ...]}}'
        always = "It answers with all labels whose scores reach their thresholds, perhaps with none"
    return f"""# {name}

A text classifier, fine-tuned by nlp-pipeline in run {code(release.run_id)}.

- Base model: {code(parameters.get("base_model", "not known"))}
- Data: {code(release.source or "not known")}, SHA-256 {code(release.source_sha256 or "not known")}
- Rows trained on: {parameters.get("rows", "not known")}
- Labels ({len(release.labels)}): {labels}

## Evaluation

{metrics_table(release)}
{compared[:1].upper()}{compared[1:]}

## Number format

The archive for TorchServe and KServe is in {chosen}: {reason}.
That is measured against the offline model, with 95 % intervals. The model in safetensors is in fp32.

## Limits

- Of a text it reads {read}; what else it says does not count.
- {always}; its scores are no more than its own confidence.
- It was evaluated on rows like those that it was trained on. How it does on other languages, subjects and times, or for
  groups of people, has not been examined; nor what its base model and its data are licensed for.

## How to ask it

Where it is deployed, or served here by `python pipeline_v2.py --serve`:

```bash
curl -H 'Content-Type: application/json' -d '{{"instances": ["a text", "another one"]}}' \\
  http://localhost:8080/v1/models/{name}:predict
```

It answers `{{"predictions": [{item}, ...]}}`, one for each text, in order.
"""


def metrics_table(release: Release) -> str:
    """Returns the metrics with their 95 % intervals, and those of always naming one class."""
    lines = [
        f"On {release.metrics.get('rows')} rows that it was not trained on:\n",
        "| | | 95 % interval | always the most frequent class |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, title in FIGURES.items():
        if name in release.metrics:
            value, majority = release.metrics[name], release.metrics.get(f"majority_{name}")
            interval = " to ".join(f"{end:.4f}" for end in release.intervals.get(name, []))
            always = "" if majority is None else f"{majority:.4f}"
            lines.append(f"| {title} | {value:.4f} | {interval} | {always} |")
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """Returns a text as code, in which Markdown has no meaning."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"
