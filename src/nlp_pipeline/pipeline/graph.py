"""The graph that every platform shares: labelled text in, a validated release out, and from there to what serves.

What differs between the platforms (how a task is configured, where outputs go, what serves) is a `Platform`:
kubeflow.py and vertex.py. A parameter stands in the settings of the step that takes it; see parameters.py.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

from kfp import dsl
from kfp.dsl import pipeline_task

from nlp_pipeline.pipeline.components import archive_model, load_data, validate_archive
from nlp_pipeline.pipeline.parameters import PIPELINES, pipeline_parameters

# For each setting of a task, kfp asks for the whole stack, with the lines of all sources: that takes seconds in all.
pipeline_task.inspect = SimpleNamespace(stack=partial(inspect.stack, 0))


class Values(dict[str, Any]):
    """The values of the pipeline's parameters, by name, while the graph is made."""

    def of(self, component: Any) -> dict[str, Any]:
        """Returns those that a component takes."""
        return {name: self[name] for name in component.component_spec.inputs if name in self}


class Platform(Protocol):
    """What differs between the platforms; it is made with the values, and adds what comes before the shared steps."""

    def finish(self) -> AbstractContextManager[Any]:
        """Returns what surrounds the shared steps, and adds what follows however they end."""

    def train_model(self, **artifacts: Any) -> dsl.PipelineTask:
        """Adds the training step as it runs on the platform."""

    def evaluate_model(self, **artifacts: Any) -> dsl.PipelineTask:
        """Adds the evaluation step as it runs on the platform."""

    def configure_task(self, task: dsl.PipelineTask, display_name: str, memory: str) -> None:
        """Gives a task its name in the dashboard, its resources, and all else that it needs on the platform."""

    def deploy(self, validated: dsl.PipelineTask, **artifacts: Any) -> None:
        """Adds what, with `deploy`, brings a release to an endpoint and checks it, after a step that must succeed."""


def add_pipeline(platform: Platform, values: Values) -> None:
    """Adds the steps that load, train, evaluate, archive, validate and deploy, and what is the platform's own."""
    with platform.finish():
        loaded = load_data(**values.of(load_data))
        platform.configure_task(loaded, "Load data", "4Gi")

        trained = platform.train_model(train=loaded.outputs["train"])
        model = trained.outputs["model"]

        evaluated = platform.evaluate_model(model=model, evaluation=loaded.outputs["evaluation"])
        passed, predictions = evaluated.outputs["Output"], evaluated.outputs["predictions"]

        with dsl.If(passed == True, name="gate passed"):  # noqa: E712, a comparison that kfp writes down
            archived = archive_model(model=model, predictions=predictions, **values.of(archive_model))
            platform.configure_task(archived, "Archive model", "8Gi")
            release = archived.outputs["release"]

            validated = validate_archive(release=release, predictions=predictions, **values.of(validate_archive))
            platform.configure_task(validated, "Validate archive", "4Gi")
            platform.deploy(validated, release=release, predictions=predictions)


def make_pipeline(
    add: Callable[[Values], None], name: str, constants: dict[str, Any], display_name: str, does: str
) -> Any:
    """Returns a pipeline, as kfp makes it.

    Args:
        add: Adds its steps.
        name: Its key in PIPELINES.
        constants: Values that the steps take besides the pipeline's parameters.
        display_name: Its name in the dashboard.
        does: What it does, a sentence.
    """
    parameters = pipeline_parameters(name)

    def pipeline(*values: Any) -> None:
        add(Values({**constants, **dict(zip(parameters, values, strict=True))}))

    # kfp reads a pipeline's parameters and their descriptions from these.
    pipeline.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if declared.default is None else declared.default,
                annotation=declared.kind,
            )
            for name, declared in parameters.items()
        ]
    )
    described = "\n".join(f"    {name}: {declared.description}" for name, declared in parameters.items())
    pipeline.__doc__ = f"{does}\n\nArgs:\n{described}"
    return dsl.pipeline(name=PIPELINES[name].name, display_name=display_name)(pipeline)
