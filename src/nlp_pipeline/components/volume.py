"""What every step needs to write to the volume: where a run's folder lies, and files that appear whole or not at all.

Where there is no volume (its path is empty), nothing is written to it: the steps' artifacts are all that there is.

These helpers are inlined into the steps as `additional_funcs`.
"""

from nlp_pipeline.components.ranges import check_parameters


def model_folder(volume_path: str, model_name: str) -> str:
    """Returns the folder of a model on the volume, `<volume_path>/<model_name>`; empty where there is no volume."""
    import os

    return os.path.join(volume_path, model_name) if volume_path else ""


def run_folder(volume_path: str, model_name: str, run_id: str) -> str:
    """Returns the folder of a run on the volume, making it where it does not exist.

    Args:
        volume_path: Where the volume is mounted; a plain folder when running locally; empty where there is none.
        model_name: The model's name, a DNS-1035 label.
        run_id: The pipeline run's id.

    Returns:
        The path `<volume_path>/<model_name>/runs/<run_id>`; empty where there is no volume.

    Raises:
        ValueError: The name is no DNS-1035 label, or the volume is not there.
        RuntimeError: The volume can't be written to.
    """
    import os

    check_parameters(model_name=model_name)
    if not volume_path:
        return ""
    if not os.path.isdir(volume_path):
        raise ValueError(f"volume_path {volume_path!r} is not a folder here: is the volume claim mounted there?")
    folder = os.path.join(model_folder(volume_path, model_name), "runs", run_id)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"{folder!r} can't be made on the volume ({error.strerror}): may it be written to?"
        ) from None
    return folder


def put_on_volume(source: str, folder: str, name: str) -> str:
    """Copies a file or folder so that the copy appears whole or not at all, replacing a former one.

    Args:
        source: A file or a folder.
        folder: A folder on the volume; empty where there is no volume, and then nothing is copied.
        name: Where the copy shall lie in the folder; what lies above it is made.

    Returns:
        Where to read it: the copy; the source where there is no volume.
    """
    import os
    import shutil
    import tempfile

    if not folder:
        return source
    target = os.path.join(folder, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".incoming-", dir=os.path.dirname(target))
    try:
        incoming = os.path.join(temporary, os.path.basename(target))
        if os.path.isdir(source):
            # Not shutil.copytree: a volume with fixed owners (NFS, CSI drivers) may refuse its changes of mode.
            for place, _, files in os.walk(source):
                copy = os.path.join(incoming, os.path.relpath(place, source))
                os.makedirs(copy, exist_ok=True)
                for file in files:
                    shutil.copyfile(os.path.join(place, file), os.path.join(copy, file))
            if os.path.isdir(target):
                os.rename(target, os.path.join(temporary, "former"))
        else:
            shutil.copyfile(source, incoming)
        os.replace(incoming, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
