"""Which release a step takes that needs one."""

from pathlib import Path

from nlp_pipeline.errors import UsageError
from nlp_pipeline.steps.evaluate_model.champion import find_champion
from nlp_pipeline.volume import Run


def find_release(choice: str, run: Run) -> Path:
    """Returns the folder of a run's release: what is live, what was validated last, or by a digest."""
    run.prepare_folder()
    folder, note = find_champion(choice, run, "")
    print(f"release: {note}", flush=True)
    if folder is None:
        raise UsageError(f"there is no release of {run.model_name} to take: {note}")
    return folder
