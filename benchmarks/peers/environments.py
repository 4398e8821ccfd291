"""`python -m benchmarks.peers.environments`: an environment of its own for each peer, made from its pins and reused.

They lie in build/peers/, or in the folder that the environment variable PEERS names.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import ROOT, tell

PINS = {path.stem: path for path in Path(__file__).parent.glob("*.txt")}


def folder_of(peer: str) -> Path:
    """Returns the folder of a peer's environment."""
    return Path(os.environ.get("PEERS") or ROOT / "build" / "peers").absolute() / peer


def is_made(peer: str) -> bool:
    """Tells whether a peer's environment is there, and of the pins of today."""
    installed = folder_of(peer) / "pins.txt"
    return installed.is_file() and installed.read_text(encoding="utf-8") == PINS[peer].read_text(encoding="utf-8")


def python_of(peer: str) -> Path:
    """Returns the Python of a peer's environment; RuntimeError where that has not been made."""
    if not is_made(peer):
        raise RuntimeError("its environment is missing: make bench-peers makes it")
    return folder_of(peer) / "bin" / "python"


def make_environment(peer: str) -> None:
    """Makes a peer's environment from its pins, in a few minutes; RuntimeError with pip's last line where it fails."""
    folder = folder_of(peer)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    # The pins are all that pip once chose: with nothing to resolve it takes a minute, and no other version.
    command: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run([*command, "--requirement", PINS[peer]], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"pip failed: {(done.stderr.strip().splitlines() or ['(nothing)'])[-1]}")
    shutil.copyfile(PINS[peer], folder / "pins.txt")


def main() -> int:
    """Makes the environments that are not there; returns how many could not be made."""
    failed = 0
    for peer in sorted(PINS):
        try:
            if not is_made(peer):
                tell(f"making the environment of {peer}, a few minutes")
                make_environment(peer)
        except RuntimeError as error:
            print(f"error: {peer}: {error}", file=sys.stderr)
            failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
