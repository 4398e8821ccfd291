"""A cluster that there is: its kubeconfig is the environment's, and Kubeflow Pipelines is where the settings say."""

import csv
import io
import tarfile
import tempfile
from pathlib import Path

from nlp_pipeline import demo, packages
from nlp_pipeline.kubeflow.connection import connect
from nlp_pipeline.kubeflow.runs import runs
from nlp_pipeline.platforms.waiting import ENDED
from nlp_pipeline.settings import load_settings
from nlp_pipeline.volume import VOLUME_PATH
from tests.cluster.site import CLAIM, FILES, NAME, Json, Site, wait_until

ROWS = {"train": 400, "evaluation": 80}
CHUNK = 1 << 18


def filling_pod(image: str, user: int | None) -> Json:
    """Returns a pod that has the claim, and does nothing; Pod Security "restricted" takes it, where it has a user."""
    security: Json = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        **({} if user is None else {"runAsUser": user, "runAsNonRoot": True}),
    }
    container = {
        "name": "main",
        "image": image,
        "command": ["sleep", "600"],
        "securityContext": security,
        "volumeMounts": [{"name": "claim", "mountPath": VOLUME_PATH}],
    }
    volumes = [{"name": "claim", "persistentVolumeClaim": {"claimName": CLAIM}}]
    spec = {"restartPolicy": "Never", "volumes": volumes, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": spec}


def pack(folder: Path) -> bytes:
    """Returns the demo's reviews, a few hundred, and its encoder as a tar archive."""
    paths = demo.write_reviews(folder)
    packed = io.BytesIO()

    def belongs_to_no_one(item: tarfile.TarInfo) -> tarfile.TarInfo:
        item.uid = item.gid = 0
        item.uname = item.gname = ""
        return item

    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, count in ROWS.items():
            path = Path(paths[f"{name}_data"])
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))[: count + 1]
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(rows)
            archive.add(path, f"{Path(FILES).name}/{name}.csv", filter=belongs_to_no_one)
        archive.add(demo.encoder_folder(), f"{Path(FILES).name}/encoder", filter=belongs_to_no_one)
    return packed.getvalue()


def unpack_in_pod(namespace: str, content: bytes) -> None:
    """Unpacks a tar archive on the volume, as `kubectl cp` does: by `tar` in the pod, which reads its input."""
    from kubernetes import client
    from kubernetes.stream import stream

    # The protocol can't end the input, so the pod is told how long it is.
    command = ["sh", "-c", f"head -c {len(content)} | tar -x -f - -C {VOLUME_PATH}"]
    execute = client.CoreV1Api().connect_get_namespaced_pod_exec
    streams = {"stdin": True, "stdout": True, "stderr": True, "tty": False}
    running = stream(execute, NAME, namespace, command=command, _preload_content=False, **streams)
    for start in range(0, len(content), CHUNK):
        running.write_stdin(content[start : start + CHUNK])
    running.run_forever(timeout=300)
    assert running.returncode == 0, running.read_all()
    running.close()


class RealSite(Site):
    """The cluster of the environment's kubeconfig."""

    texts = ("One of the best films that I have seen, superb and moving.", "Dull, boring, a waste of time; awful.")
    labels = ("negative", "positive")

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(folder, environment)
        self.training = {
            "epochs": 1.0,
            "learning_rate": 2e-4,
            "batch_size": 16,
            "max_length": 64,
            "min_accuracy": 0.5,
        }
        self.settings, _ = load_settings({"experiment": NAME}, None)
        self.namespace = self.settings.namespace or self.namespace

    def fill_claim(self) -> None:
        """Lets a pod that has the claim unpack the files there."""
        from nlp_pipeline.deploy.cluster import connect as connect_to_cluster

        connect_to_cluster()
        pods = self.collection("v1", "Pod")
        status, answer = self.call(
            "POST", pods, filling_pod(self.settings.image or packages.BASE_IMAGE, self.settings.run_as_user)
        )
        assert status == 201, answer
        place = f"{pods}/{NAME}"
        self.objects.append(place)

        def is_running() -> bool:
            return bool(self.call("GET", place)[1].get("status", {}).get("phase") == "Running")

        wait_until(is_running, f"pod {NAME} is running")
        with tempfile.TemporaryDirectory() as folder:
            unpack_in_pod(self.namespace, pack(Path(folder)))
        self.call("DELETE", f"{place}?gracePeriodSeconds=0")
        self.objects.remove(place)

    def fire(self, schedule: str) -> None:
        """Kubeflow's own clock does."""

    def stop_runs(self) -> None:
        """Terminates the runs of this test's experiment that have not ended, and waits until they have."""
        connection = connect(self.settings)
        experiment = connection.find("experiments", NAME, namespace=connection.namespace)

        def going() -> list[str]:
            known = runs(self.settings, 50) if experiment else []
            own = [run for run in known if run["experiment_id"] == experiment.experiment_id]
            return [run["id"] for run in own if run["state"] not in ENDED]

        for run_id in going():
            connection.call(f"ending run {run_id}", connection.runs.run_service_terminate_run, run_id, repeat=False)
        wait_until(lambda: not going(), "the runs have ended")

    def inspect(self) -> None:
        """Waits until the claim, which no pod must hold any more, is gone."""
        claim = f"{self.collection('v1', 'PersistentVolumeClaim')}/{CLAIM}"
        wait_until(lambda: self.call("GET", claim)[0] == 404, f"claim {CLAIM} is gone")
