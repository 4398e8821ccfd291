"""How a step starts: what it installs, where it writes to, and what it says where there is no index."""

import stat
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

from nlp_pipeline.pipeline.embedding import RUN, pack, startup_source
from nlp_pipeline.pipeline.startup import is_installed
from tests.cluster.pods import make_environment
from tests.pipeline.programs import run_program

COMPONENT = """
import os, sys, tempfile, unittest
from pathlib import Path

def gate():
    if "MODULE" in os.environ:
        __import__(os.environ["MODULE"])
    Path("made").touch()
    for name in ("PIP_INDEX_URL", "HTTPS_PROXY", "SSL_CERT_FILE"):
        if "CONFIGURED" in os.environ:
            print(name, Path(os.environ[name]).read_text() if "CERT" in name else os.environ[name])
    print(os.environ["HOME"], tempfile.gettempdir(), oct(Path("made").stat().st_mode))
"""


def start(
    folder: Path, *requirements: str, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Starts a step in a process of its own, with these requirements."""
    archive = folder / "archive"
    startup = startup_source().replace("/etc/nlp-pipeline", str(folder / "configuration"))
    archive.write_bytes(pack(startup, {"gate.py": COMPONENT}, {"gate": list(requirements), "other": ["no"]}))
    program = f"import bz2\ncode = open({str(archive)!r}, 'rb').read()\n{RUN}"
    return run_program(program, "gate", folder, {}, python, **{"PIP_NO_INDEX": "1", **environment})


def test_what_is_there_is_not_installed(tmp_path: Path) -> None:
    assert is_installed(f"kfp=={version('kfp')}") and not is_installed("kfp==0.1") and not is_installed("no-such==1")
    assert is_installed("torch==" + version("torch").partition("+")[0])
    done = start(tmp_path, f"kfp=={version('kfp')}", PIP_PYTHON="/nowhere")  # with which pip could not even start
    assert done.returncode == 0, done.stderr


def test_what_is_missing_is_installed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "tiny-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "print('tiny is here')")
        wheel.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        wheel.writestr("tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.dist-info/RECORD", "")
    programs = make_environment(tmp_path / "environment", [])
    python = str(programs / "python3")
    pins = ["tiny==1", f"kfp=={version('kfp')}"]
    done = start(tmp_path, *pins, python=python, PIP_FIND_LINKS=str(tmp_path), MODULE="tiny", PYTHONPATH="")
    assert done.stdout.startswith("tiny is here\n"), done.stderr


def test_a_config_map_sets_the_environment_and_a_ca_to_trust(tmp_path: Path) -> None:
    configuration = tmp_path / "configuration"
    configuration.mkdir()
    (configuration / "PIP_INDEX_URL").write_text("https://packages.example.com/simple\n")
    (configuration / "HTTPS_PROXY").write_text("http://proxy.example.com:3128")
    (configuration / "ca.crt").write_text("-----our CA-----\n")
    (configuration / "..data").mkdir()  # Kubernetes' own
    done = start(tmp_path, CONFIGURED="1", HTTPS_PROXY="http://of-a-secret.example.com")
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "PIP_INDEX_URL https://packages.example.com/simple",
        "HTTPS_PROXY http://of-a-secret.example.com",  # what is set already stays
    ]
    assert lines[2].startswith("SSL_CERT_FILE ") and "-----our CA-----" in lines, done.stderr


def test_without_an_index_it_ends_with_what_to_do(tmp_path: Path) -> None:
    done = start(tmp_path, "no-such-package==1", f"kfp=={version('kfp')}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: pip can't install no-such-package==1: may the pod reach an index? An --image needs none"
    )


def test_a_user_without_a_home_gets_one_and_files_are_for_its_group_too(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = start(tmp_path, HOME=str(home))
    assert done.stdout.split()[0] == str(home)
    assert stat.S_IMODE(int(done.stdout.split()[2], 8)) == 0o664
    done = start(tmp_path, HOME="/none")
    assert done.returncode == 0 and Path(done.stdout.split()[0]).is_relative_to(done.stdout.split()[1])
