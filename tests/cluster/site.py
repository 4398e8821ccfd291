"""Where the scenario is played: a namespace, the program as a process, and what is made there and removed again."""

import abc
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from nlp_pipeline.volume import VOLUME_PATH

Json = dict[str, Any]
T = TypeVar("T")
PROGRAM = Path(__file__).parents[2] / "pipeline_v2.py"
# Names that no one else's are: what is made under them is removed.
NAME = CLAIM = "nlp-pipeline-cluster-test"
FILES = f"{VOLUME_PATH}/{NAME}-files"


def wait_until(look: Callable[[], T], what: str, seconds: float = 300) -> T:
    """Looks until there is something to return; fails after so many seconds."""
    until = time.monotonic() + seconds
    while not (result := look()):
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}"
        time.sleep(2)
    return result


class Site(abc.ABC):
    """A namespace, empty at first.

    Attributes:
        namespace: Its name.
        folder: Where processes work.
        environment: What they have in their environment.
        texts: What the model is asked, a text of each label.
        labels: The labels of the data.
        training: Parameters of a run that are the data's.
        reach: Parameters by which a step reaches the endpoint.
        patience: For so many seconds a run may go on.
        undoing: The commands that undo what was done, by their flags.
        objects: The addresses of what was made in the namespace.
    """

    namespace = "kubeflow"
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    training: dict[str, Any]
    reach: dict[str, Any]
    patience = 900

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {**environment, "NLP_PIPELINE_EXPERIMENT": NAME}
        self.reach = {}
        self.undoing: dict[str, tuple[str, ...]] = {}
        self.objects: list[str] = []

    # What differs

    @abc.abstractmethod
    def fill_claim(self) -> None:
        """Puts train.csv, evaluation.csv and the folder `encoder` where pods have FILES."""

    @abc.abstractmethod
    def fire(self, schedule: str) -> None:
        """Lets a schedule's time come, where it does not come by itself."""

    @abc.abstractmethod
    def stop_runs(self) -> None:
        """Ends the runs that still go on."""

    @abc.abstractmethod
    def inspect(self) -> None:
        """Looks at what only can be seen here of what was done."""

    # The program

    def run(self, *arguments: str, code: int = 0) -> Any:
        """Runs the program to its end, and returns its JSON document."""
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *arguments, "--json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=self.patience,
        )
        sys.stdout.write(f"$ {' '.join(arguments)}\n{done.stderr}\n")
        assert done.returncode == code, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def undo(self, flag: str) -> Any:
        """Runs a command that undoes something."""
        result = self.run(*self.undoing[flag])
        del self.undoing[flag]
        return result

    # The cluster

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Json]:
        """Asks the cluster's API by the kubeconfig; returns the status and the answer."""
        from kubernetes import client, config
        from kubernetes.client.exceptions import ApiException

        config.load_kube_config(self.environment.get("KUBECONFIG"))
        header = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            answer, status, _ = client.ApiClient().call_api(
                path, method, header_params=header, body=body, auth_settings=["BearerToken"], response_type="object"
            )
        except ApiException as error:
            return error.status, {"message": str(error.body)}
        return status, answer

    def apply(self, manifests: Json) -> None:
        """Makes objects, as `kubectl create` does; what is there already stays, and is not this test's to remove.

        The claim gets the access mode that a single node's storage has, as docs/cluster.md says.
        """
        for item in manifests["items"]:
            if item["kind"] == "PersistentVolumeClaim":
                item["spec"]["accessModes"] = ["ReadWriteOnce"]
            place = self.collection(item["apiVersion"], item["kind"])
            status, answer = self.call("POST", place, item)
            assert status in (201, 409), f"{item['kind']}: {status}: {answer}"
            if status == 201:
                self.objects.append(f"{place}/{item['metadata']['name']}")

    def collection(self, version: str, kind: str) -> str:
        """Returns the address of the namespace's objects of a kind."""
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return f"{root}/namespaces/{self.namespace}/{kind.lower()}s"

    def release(self) -> str:
        """Returns the digest of the release that is deployed; empty where there is none."""
        place = self.collection("serving.kserve.io/v1beta1", "InferenceService")
        status, service = self.call("GET", f"{place}/{NAME}")
        return str(service["metadata"]["labels"]["nlp-pipeline/release"]) if status == 200 else ""

    def remove_objects(self) -> None:
        """Removes what `apply` has made."""
        while self.objects:
            status, answer = self.call("DELETE", self.objects[-1])
            assert status in (200, 202, 404), answer
            self.objects.pop()

    def clean(self) -> None:
        """Removes all that is left, whatever else fails."""
        with contextlib.ExitStack() as stack:  # the last is done first: a run that goes on would deploy once more
            stack.callback(self.remove_objects)
            stack.callback(self._undo_if_done, "--undeploy")
            stack.callback(self.stop_runs)
            stack.callback(self._undo_if_done, "--unschedule")

    def _undo_if_done(self, flag: str) -> None:
        with contextlib.suppress(AssertionError):  # where it was never made
            if flag in self.undoing:
                self.undo(flag)


def settings(**values: Any) -> Iterator[str]:
    """Yields parameters as the program takes them."""
    for name, value in values.items():
        yield "--set"
        yield f"{name}={value}"
