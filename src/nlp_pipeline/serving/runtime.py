"""What the TorchServe image runs: KServe mounts the release, Vertex AI names a folder in Cloud Storage.

`python -m nlp_pipeline.serving.runtime [RELEASE]` becomes TorchServe: no process stands between, and so a SIGTERM
reaches it. Without RELEASE it serves what AIP_STORAGE_URI names (Vertex AI sets it), else /mnt/models (KServe's mount).
`python -m nlp_pipeline.serving.runtime --ready MODEL`, the readiness probe of the `ServingRuntime`, tells whether MODEL
is loaded.

No address that a probe could ask by HTTP tells that. TorchServe 0.12 was seen to answer /ping with 200 as soon as it
listens, 14 seconds before a slow model was loaded, and for five minutes where a model could not be loaded; other
addresses are a 404 before and after, and a prediction would stand in line with the others and take a busy server out
of traffic. The management address tells, and is for localhost only. Vertex AI asks /ping nevertheless (what hands the
Model's container over has no field for a probe by command): early requests wait (seen: 11 seconds), and none is lost.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.serving.torchserve import release_config, server_environment, worker_states

RELEASE = "/mnt/models"
READY = ["python", "-m", "nlp_pipeline.serving.runtime", "--ready"]  # and the model's name
# Ports by the environment variables that change them. Kubernetes itself sets variables that end in _PORT.
PORTS = {
    "PORT_INFERENCE": 8080,
    "PORT_MANAGEMENT": 8081,
    "PORT_METRICS": 8082,
    "PORT_GRPC_INFERENCE": 7070,
    "PORT_GRPC_MANAGEMENT": 7071,
}
# TorchServe's own configuration writes log files, up to 3 GB of them, in a container that no one looks into.
LOGGING = """\
<Configuration>
  <Appenders>
    <Console name="STDOUT" target="SYSTEM_OUT"><PatternLayout pattern="%d{ISO8601} [%-5p] %c{1} - %m%n"/></Console>
  </Appenders>
  <Loggers>
    <Logger name="io.netty" level="error"/>
    <Logger name="org.apache" level="off"/>
    <Root level="info"><AppenderRef ref="STDOUT"/></Root>
  </Loggers>
</Configuration>
"""


def chosen_ports(environment: Mapping[str, str]) -> list[int]:
    """Returns the ports as the environment has them, in the order of `PORTS`; UsageError where one is no number."""
    ports = []
    for name, port in PORTS.items():
        # Vertex AI has a name of its own for the first.
        source = "AIP_HTTP_PORT" if name == "PORT_INFERENCE" and "AIP_HTTP_PORT" in environment else name
        text = environment.get(source, str(port))
        if not text.isdecimal():
            raise UsageError(f"{source} is {text!r}: it must be the number of a port")
        ports.append(int(text))
    return ports


def check_ready(model_name: str) -> str:
    """Returns why a model, named as the InferenceService, is not ready; nothing where all of its workers are."""
    states = worker_states(chosen_ports(os.environ)[1], model_name)
    if set(states) == {"READY"}:
        return ""
    reason = f"its workers are {', '.join(states)}" if states else "TorchServe does not list it, or does not answer"
    return f"model {model_name!r} is not loaded: {reason}; the log of the container tells more"


def fetch_release(uri: str) -> Path:
    """Downloads the release that AIP_STORAGE_URI names, where Vertex AI has copied it, into a new folder."""
    # KServe's pods have no use for Google's client.
    from nlp_pipeline.serving.cloud_storage import download_release

    folder = Path(tempfile.mkdtemp(prefix="release-"))
    served = f"/v1/models/{download_release(uri, folder).model_name}:predict"
    asked = os.environ.get("AIP_PREDICT_ROUTE") or served
    if asked != served:
        raise UsageError(f"AIP_PREDICT_ROUTE is {asked!r}: the Model's predictRoute must be {served}")
    return folder


def serve(release: Path, ports: list[int]) -> None:
    """Becomes TorchServe on a release's folder, an absolute path.

    It is started by the command of TorchServe's own launcher, which would stay between it and any signal.
    """
    import ts  # type: ignore[import-untyped]

    config = release_config(release, "0.0.0.0", ports)  # noqa: S104, a container's
    # The only folder that is written to, in TMPDIR: the release and all else may be read-only.
    folder = Path(tempfile.mkdtemp(prefix="ts-"))
    (folder / "config.properties").write_text(config, encoding="utf-8")
    (folder / "log4j2.xml").write_text(LOGGING, encoding="utf-8")
    environment = server_environment(folder)
    packages = Path(ts.__file__).resolve().parents[1]
    command = [
        f"{environment['JAVA_HOME']}/bin/java",
        f"-Dmodel_server_home={packages}",
        f"-Djava.io.tmpdir={folder}",
        f"-Dlog4j.configurationFile=file://{folder}/log4j2.xml",
        *("-cp", f"{packages}/ts/frontend/*", "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable),
        *("-f", f"{folder}/config.properties"),
        *("-s", str(release / "model-store")),
        "-ncs",  # no snapshots of the configuration
    ]
    os.chdir(folder)
    os.execve(command[0], command, environment)  # noqa: S606, no shell


def main() -> None:
    """Serves a release; with --ready, tells whether it is loaded."""
    arguments, uri = sys.argv[1:], os.environ.get("AIP_STORAGE_URI", "")
    try:
        if arguments[:1] == ["--ready"] and len(arguments) == 2:
            sys.exit(check_ready(arguments[1]) or 0)
        ports = chosen_ports(os.environ)
        release = Path(arguments[0] if arguments else RELEASE).absolute()
        serve(fetch_release(uri) if uri and not arguments else release, ports)
    except (PipelineError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
