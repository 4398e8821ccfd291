"""Emulators of Kubeflow Pipelines and Kubernetes: a run's steps are processes, and a real server answers for them."""

import contextlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from nlp_pipeline import packages
from nlp_pipeline.kubeflow.runs import ALL_STEPS
from nlp_pipeline.pipeline.budget import METADATA, METADATA_OF_OTHERS
from nlp_pipeline.serving.local_server import served
from nlp_pipeline.volume import VOLUME_PATH
from tests.cluster.pods import Pods
from tests.cluster.site import FILES, NAME, Json, Site
from tests.conftest import TRAINING, make_rows
from tests.fakes.httpd import Request, Response
from tests.fakes.kfp import Fate, Kubeflow, kubeflow
from tests.fakes.kubernetes.emulator import Cluster, emulated_cluster
from tests.fakes.kubernetes.emulator import Fate as PodFate
from tests.fakes.s3 import S3Server, s3_server

FOREIGN = ("NLP_PIPELINE_", "KF_PIPELINES_", "AWS_", "KUBERNETES_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
NODE = {"kind": "Node", "metadata": {"name": "node"}, "status": {"allocatable": {"cpu": "2", "memory": "8Gi"}}}
# A pod's log holds nothing of kfp's, pip's and the HTTP client's.
NOISE = ("KFP Executor", "executor_input", "HTTP Request", "INFO", "WARNING", "notice")


class Node(Pods):
    """The cluster's node: before a step deploys a release, there is a server that will answer for it."""

    def __init__(self, folder: Path, cluster: Cluster, stack: contextlib.ExitStack, variables: dict[str, str]) -> None:
        pins = {step.replace("_", "-"): packages.STEPS[step] for step in ALL_STEPS}
        super().__init__(folder, pins, variables)
        self.cluster, self.stack = cluster, stack

    def run_step(self, run_id: str, name: str, component: Json, container: Json, given: Json) -> Json:
        """Runs a step."""
        if name == "deploy-model":
            digest = given["release"]["metadata"]["digest"]
            server = self.stack.enter_context(served(self.volume / NAME / "releases" / digest, runtime="onnx"))
            self.cluster.fates[digest] = PodFate(ready_after=1, backend=partial(forward, server.address))
        return super().run_step(run_id, name, component, container, given)


def forward(address: str, request: Request) -> Response:
    """Returns what a real server answers."""
    headers = {"Content-Type": "application/json"}
    response = httpx.post(address, content=request.body, headers=headers, timeout=60, trust_env=False)
    return Response(response.status_code, response.content)


class EmulatedSite(Site):
    """The emulators, as one cluster."""

    texts, labels = ("a superb film", "an awful story"), ("4", "0")

    def __init__(
        self, folder: Path, encoder: Path, k: Kubeflow, cluster: Cluster, s3: S3Server, stack: contextlib.ExitStack
    ) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN)}
        addresses = {
            "KUBECONFIG": str(folder / "kubeconfig"),
            "NLP_PIPELINE_HOST": k.url,
            "NLP_PIPELINE_S3_ENDPOINT": f"http://{s3.address}",
            "NLP_PIPELINE_S3_ACCESS_KEY": s3.access_key,
            "NLP_PIPELINE_S3_SECRET_KEY": s3.secret_key,
            "NO_PROXY": "*",
        }
        super().__init__(folder, kept | addresses)
        self.encoder, self.k, self.cluster, self.s3 = encoder, k, cluster, s3
        self.training = {**TRAINING, "min_accuracy": 0.5}
        self.reach = {"gateway": cluster.gateway_url}  # a step's pod finds a Service by its name only in a cluster
        variables = {"KUBECONFIG": str(folder / "kubeconfig"), "NO_PROXY": "*"}
        self.node = Node(folder / "node", cluster, stack, variables)
        self.threads: list[threading.Thread] = []
        k.api.cluster, k.api.started, k.api.fate = cluster, self.start_run, Fate(ends=None)

    def start_run(self, record: Json) -> None:
        """Runs a run that Kubeflow has made, as Argo would."""
        thread = threading.Thread(target=self.run_steps, args=(record,))
        self.threads.append(thread)
        thread.start()

    def run_steps(self, record: Json) -> None:
        """Runs a run's steps, keeps their artifacts in the object store, and tells how it ended."""
        run_id, arguments = record["run_id"], record["runtime_config"]["parameters"]
        ended = Fate(at_once=True)
        try:
            self.node.run(run_id, record["_pipeline"], arguments)
        except AssertionError as error:
            ended = Fate(failing=str(error).partition(" failed:")[0], error=str(error), at_once=True)
        folder = self.node.artifacts_of(run_id)
        for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
            step, *rest = path.relative_to(folder).parts
            key = "/".join(
                ["v2/artifacts/nlp-pipeline", run_id, step, str(uuid.uuid5(uuid.NAMESPACE_URL, step)), *rest]
            )
            self.s3.put("mlpipeline", key, path.read_bytes())
        record["_fate"] = ended

    def fill_claim(self) -> None:
        """Writes to the folder that is the volume."""
        folder = self.node.volume / Path(FILES).relative_to(VOLUME_PATH)
        folder.mkdir()
        for name, rows in {"train": make_rows(400), "evaluation": make_rows(60, seed=1)}.items():
            lines = [f"{text},{label}\n" for text, label in rows]
            (folder / f"{name}.csv").write_text("".join(["text,label\n", *lines]), encoding="utf-8")
        shutil.copytree(self.encoder, folder / "encoder")

    def fire(self, schedule: str) -> None:
        """Makes the schedule's run."""
        (item,) = [item for item in self.k.api.recurring_runs if item["display_name"] == schedule]
        assert self.k.api.fire(item["recurring_run_id"])

    def stop_runs(self) -> None:
        """Waits for their steps."""
        for thread in self.threads:
            thread.join()

    def inspect(self) -> None:
        """Looks into the pods: what travels in the compiled file was all that the steps needed."""
        assert not self.cluster.objects.keys() & {("persistentvolumeclaims", self.namespace, NAME)}
        runs = {run_id for run_id, _ in self.node.logs}
        assert [name.replace("-", "_") for _, name in self.node.logs] == [*ALL_STEPS] * len(runs) and len(runs) == 2
        for output in self.node.outputs.values():  # what the budget of a workflow provides for
            for name, artifact in output.get("artifacts", {}).items():
                metadata: Any = artifact["artifacts"][0]["metadata"]
                assert len(json.dumps(metadata)) <= METADATA.get(name, METADATA_OF_OTHERS), artifact
        for pod, log in self.node.logs.items():
            assert not [noise for noise in NOISE if noise in log], f"{pod}: {log}"


@contextlib.contextmanager
def emulated_site(folder: Path, encoder: Path) -> Iterator[EmulatedSite]:
    """Starts the emulators and an object store, and ends all that was started."""
    (folder / "s3").mkdir()
    with (
        s3_server(folder / "s3") as s3,
        emulated_cluster("Standard", Site.namespace) as cluster,
        kubeflow() as k,
        contextlib.ExitStack() as stack,
    ):
        cluster.user = f"system:serviceaccount:{Site.namespace}:pipeline-runner"
        cluster.add(NODE)
        cluster.write_kubeconfig(folder / "kubeconfig", Site.namespace)
        site = EmulatedSite(folder, encoder, k, cluster, s3, stack)
        try:
            yield site
        finally:
            site.clean()
