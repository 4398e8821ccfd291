"""How a step starts in its pod: with its packages and its code, and then by kfp's executor.

It travels as text, at the end of an archive (see embedding.py): nothing of the package is there yet, nor kfp. It works
as any user, also on a read-only root file system: what it writes to are temporary folders.
"""

import importlib.metadata
import logging
import os
import site
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Where a ConfigMap may be mounted: environment variables by their names, and certificates.
CONFIGURATION = Path("/etc/nlp-pipeline")
# How much memory it takes to unpack the modules, in bytes.
MEMORY = 8 << 20


def start(packed: bytes, order: int, requirements: dict[str, list[str]]) -> None:
    """Runs a component that stands among packed files.

    Args:
        packed: The paths that the files get in a temporary folder, each followed by its text, packed by PPMd.
        order: The order by which PPMd has packed them.
        requirements: What the steps need, as pip has it, by their names; nothing where all is installed.
    """
    logging.basicConfig(stream=sys.stdout)  # and thereby for kfp too, which would log at INFO
    folder, name = prepare(), sys.argv[4]
    install([needed for needed in requirements.get(name, []) if not is_installed(needed)])
    texts = iter(unpack(packed, order).split("\0"))
    for path, text in zip(texts, texts, strict=True):
        target = Path(folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    sys.argv += ["--component_module_path", f"{folder}/{name}.py"]
    os.environ["_KFP_RUNTIME"] = "true"  # kfp comes without what only compiling needs
    from kfp.dsl.executor_main import executor_main

    executor_main()


def prepare() -> str:
    """Prepares the environment of a step, and returns a folder that it may write to."""
    read_configuration()
    os.umask(0o002)  # the next step may run as another user of the same group
    if not os.access("/tmp", os.W_OK):  # noqa: S108
        os.environ.setdefault("TMPDIR", "/.cache")  # which Kubeflow Pipelines mounts
    folder = tempfile.mkdtemp()
    if not os.access(os.path.expanduser("~"), os.W_OK):  # noqa: PTH111, a user without a home has none of its own
        os.environ["HOME"] = folder
    return folder


def unpack(packed: bytes, order: int) -> str:
    """Returns a text that PPMd of an order has packed."""
    import pyppmd

    text: Any = pyppmd.decompress_str(packed, max_order=order, mem_size=MEMORY)  # typed as bytes, and is not
    return str(text)


def read_configuration() -> None:
    """Takes over the environment that a cluster's owner has set; what a Secret sets comes first."""
    for path in CONFIGURATION.glob("[A-Za-z_]*"):
        os.environ.setdefault(path.name, path.read_text("utf-8").strip())
    if (extra := CONFIGURATION / "ca.crt").exists():
        bundle = Path(tempfile.mkdtemp(), "ca.crt")
        known = Path("/etc/ssl/certs/ca-certificates.crt")
        bundle.write_text((known.read_text("utf-8") if known.exists() else "") + extra.read_text("utf-8"), "utf-8")
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "AWS_CA_BUNDLE"):
            os.environ[name] = str(bundle)


def is_installed(requirement: str) -> bool:
    """Says whether a package is there in the version that it is pinned to."""
    package, _, version = requirement.partition("==")
    try:
        return importlib.metadata.version(package).partition("+")[0] == version
    except importlib.metadata.PackageNotFoundError:
        return False


def install(requirements: list[str]) -> None:
    """Installs packages by pip; kfp without what only compiling needs."""
    kfp = [requirement for requirement in requirements if requirement.startswith("kfp==")]
    for chosen in ([item for item in requirements if item not in kfp], kfp and ["--no-deps", *kfp]):
        # Errors only: no notices of newer versions, no advice about users and paths.
        if chosen and subprocess.run([sys.executable, "-m", "pip", "install", "-qq", *chosen]).returncode:
            sys.exit(f"error: pip can't install {' '.join(chosen)}: may the pod reach an index? An --image needs none")
    if not os.access(site.getsitepackages()[0], os.W_OK):
        site.addsitedir(site.getusersitepackages())  # where pip puts them then
    importlib.invalidate_caches()
