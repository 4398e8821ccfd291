"""The budget of a workflow: how large a run gets in a cluster, computed from a compiled file.

Kubeflow Pipelines 2.17 keeps a run as one Workflow object of Argo Workflows 4, in which each step's code stands nine
times. Its limits:

- What a pod is to do is in its variable ARGO_TEMPLATE; over 131,072 bytes, the pod does not start (argo:
  workflow/common/common.go, MaxEnvVarLen).
- In a workflow over 1,048,576 bytes the nodes are compressed (argo: workflow/packer/packer.go), and KFP's API, which
  does not decompress them, reports no step any more.
- If it is larger even so, it can't be stored: the run hangs, RUNNING, for ever.

`Workflow` is such an object as it is at the end of a run, by KFP's and Argo's own rules. Where a rule is applied, its
source is named: "compiler" and "driver" are backend/src/v2/compiler/argocompiler and backend/src/v2/driver in
kubeflow/pipelines 2.17.0, "argo" is argoproj/argo-workflows 4.0.8. The constants are those of a stock installation;
tests/pipeline/test_budget.py holds the result against a real run. No such limits are known of Vertex AI.
"""

import gzip
import json
import random
import re
import string
import zlib
from dataclasses import dataclass, field, fields
from graphlib import TopologicalSorter
from typing import Any

from nlp_pipeline.parameters import ANYTHING
from nlp_pipeline.pipeline.compiling import load_ir
from nlp_pipeline.pipeline.embedding import step_containers, step_name
from nlp_pipeline.pipeline.parameters import PIPELINES

# Bytes that a workflow may have, uncompressed and compressed, and a template; Argo's limits are 1,048,576 and 131,072.
UNCOMPRESSED, COMPRESSED, TEMPLATE = 1_000_000, 700_000, 100_000
# Characters that the budget provides for: of each parameter that is a text; and of the metadata of an artifact that
# steps take, as JSON, by its name.
TEXT = 200
METADATA = {"train": 420, "evaluation": 330, "model": 270, "metrics": 550, "predictions": 10, "release": 420}
METADATA_OF_OTHERS = 600
# An image's name that is as long as most are, for the file as it would be with --image.
IMAGE = f"registry.example.com:5000/team/nlp-pipeline@sha256:{'0' * 64}"

# Bytes that do not depend on the pipeline: of a pod's template; of a task in the template of its DAG; of the templates
# that all pipelines share; of the workflow's metadata and of its status without nodes.
TEMPLATE_FRAME, TASK_FRAME, SHARED_TEMPLATES, WORKFLOW_FRAME = 2_900, 1_050, 11_000, 1_500

NAME, RUN_ID = "nlp-pipeline-x7k2p", "6f1c2f0e-8a44-4f0b-9d7e-3b5d9a1c7e42"
STORE = f"mlpipeline/v2/artifacts/nlp-pipeline/{RUN_ID}/validate-archive/b7c1a8de-51f3-4c6a-8e0d-92f4d6a3c5b1"
# Part of each artifact's metadata: how to reach the store (backend/src/v2/metadata/client.go, RecordArtifact).
SESSION = (
    '{"Provider":"minio","Params":{"accessKeyKey":"accesskey","disableSSL":"true","endpoint":"seaweedfs.kubeflow:9000",'
    '"fromEnv":"false","maxRetries":"5","region":"minio","secretKeyKey":"secretkey","secretName":"mlpipeline-minio-artifact"}}'
)
LAUNCHER = (
    f"/kfp-launcher/launch --pipeline_name nlp-pipeline --run_id {RUN_ID} --execution_id 12 "
    "--pod_name $(KFP_POD_NAME) --pod_uid $(KFP_POD_UID) "
    "--ml_pipeline_server_address ml-pipeline.kubeflow.svc.cluster.local --ml_pipeline_server_port 8887 "
    "--mlmd_server_address metadata-grpc-service.kubeflow.svc.cluster.local --mlmd_server_port 8080 "
    "--publish_logs true --publish_logs true --"
)


@dataclass(frozen=True)
class Budget:
    """What a run of a compiled file takes, in bytes; on Vertex AI only the code is known."""

    code: dict[str, int]  # each step's embedded program
    template: int = 0  # the largest ARGO_TEMPLATE
    uncompressed: int = 0  # the workflow at the end of the run
    compressed: int = 0  # the same, its nodes compressed
    growth: dict[str, int] = field(default_factory=dict)  # the uncompressed workflow at the end of each step

    @property
    def blind_after(self) -> str:
        """The step at whose end the uncompressed workflow is over its budget; empty where it never is."""
        return next((step for step, size in self.growth.items() if size > UNCOMPRESSED), "")

    def excess(self, embedded: bool = False) -> str:
        """Returns what is over the budget, as a list in words; empty where nothing is.

        Args:
            embedded: Whether the steps' code is in the file: then the size uncompressed is an aim, not a limit.
        """
        sizes = {
            "template": (self.template, TEMPLATE),
            "uncompressed": (0 if embedded else self.uncompressed, UNCOMPRESSED),
            "compressed": (self.compressed, COMPRESSED),
        }
        return ", ".join(f"{name} {size:,} of {most:,}" for name, (size, most) in sizes.items() if size > most)

    def __str__(self) -> str:
        """Returns it as a line."""
        largest = max(self.code, key=lambda step: self.code[step])
        code = f"code {sum(self.code.values()):,} (largest {largest}: {self.code[largest]:,})"
        if not self.growth:
            return f"{code} bytes"
        blind = f", over it from {self.blind_after} on: KFP reports no step any more" if self.blind_after else ""
        return (
            f"{code}, template {self.template:,} of {TEMPLATE:,}, workflow compressed {self.compressed:,} of "
            f"{COMPRESSED:,}, uncompressed {self.uncompressed:,} of {UNCOMPRESSED:,} bytes{blind}"
        )


def weigh(ir: str, values: dict[str, Any] | None = None) -> Budget:
    """Returns what a run of a compiled file takes.

    Args:
        ir: The file's text: two documents for Kubeflow, one for Vertex AI.
        values: The run's parameters; None for texts as long as the budget provides for.
    """
    pipeline, *platform = load_ir(ir)
    programs = {step_name(container): str(container["command"][-1]) for container in step_containers(pipeline)}
    code = {step: len(program) for step, program in programs.items()}
    if not platform:
        return Budget(code)
    workflow = Workflow(pipeline, platform[0], values or long_values(pipeline))
    nodes, packed = encode(workflow.nodes), 0
    # Argo compresses fast, and finds no text again that looks like noise (argo: util/file/fileutil.go; klauspost's
    # compress: flate/level5.go). So each copy of a packed program counts.
    # Of what is beside them it finds less than is found here, as it has the nodes in the order of their ids, which hash
    # the run's name: of a workflow of 683 KB by this, klauspost's compressor made 754 to 880 KB, for 40 names. That is
    # why the budget stays far below Argo's limit.
    for program in programs.values():
        escaped = encode(encode(program)[1:-1])[1:-1]
        packed += nodes.count(escaped) * len(zlib.compress(escaped.encode()))
        nodes = nodes.replace(escaped, "")
    packed += len(gzip.compress(nodes.encode(), 3))
    return Budget(
        code=code,
        template=workflow.template,
        uncompressed=workflow.frame + workflow.size,
        compressed=workflow.frame + packed * 4 // 3,  # in base 64
        growth=workflow.growth,
    )


def long_values(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Returns parameters of a run whose texts are unlike each other, and as long as the budget provides for.

    Where a parameter's range is narrower, which is checked before a run is submitted, they are as long as that allows:
    a name of 63 characters, or the longest of a few words.
    """
    noise = random.Random(0)  # noqa: S311
    kinds = [kind for known in PIPELINES.values() if known.platform == "kubeflow" for kind in known.settings]
    allowed = {item.name: item.metadata.get("allowed") for kind in kinds for item in fields(kind)}
    values: dict[str, Any] = {}
    for name, declared in pipeline["root"]["inputDefinitions"]["parameters"].items():
        text = "".join(noise.choices(string.ascii_lowercase, k=TEXT))
        texts = [text, f"s3://bucket/{text[12:]}", f"https://{text[8:]}", text[:63], text[:48]]
        is_allowed, _ = allowed.get(name) or ANYTHING
        is_text = declared["parameterType"] == "STRING"
        values[name] = next((text for text in texts if is_text and is_allowed(text)), declared.get("defaultValue", ""))
    return values


def encode(value: Any) -> str:
    """Returns the JSON that Go's encoding/json writes: fit for HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def encode_message(value: Any) -> str:
    """Returns the JSON that Go's protojson writes: as it is, with a space after each comma in some builds."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ":"))


class Workflow:
    """The Workflow object of a run at its end: its `nodes`, by id, and the bytes of all else, its `frame`."""

    def __init__(self, pipeline: dict[str, Any], platform: dict[str, Any], values: dict[str, Any]) -> None:
        self.components = {"root": pipeline["root"], **pipeline["components"]}
        executors = pipeline["deploymentSpec"]["executors"]
        self.containers = {label: executor["container"] for label, executor in executors.items()}
        self.kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.values, self.nodes = dict(values), dict[str, Any]()
        self.growth: dict[str, int] = {}
        self.size = self.template = 0
        runtime = encode({"parameterValues": values})
        self.frame = WORKFLOW_FRAME + self.spec_size(runtime)

        self.add_nodes(NAME, "DAG", {})
        self.add_dag_driver(f"{NAME}(0).root", {"component": encode(pipeline["root"]), "runtime-config": runtime})
        self.add_dag(f"{NAME}(0).root", "root")

    def spec_size(self, runtime: str) -> int:
        """Returns the bytes of the spec.

        Components, containers and Kubernetes' part are arguments of the workflow; the templates of DAGs have the tasks,
        which refer to them (compiler/argo.go, saveProtoToArguments; compiler/dag.go, task).
        """
        values = [*self.components.values(), *self.containers.values(), *self.kubernetes.values()]
        arguments = [{"name": f"implementations-{'0' * 64}", "value": encode(value)} for value in values]
        tasks = [task for component in self.components.values() for task in tasks_of(component).values()]
        # A loop has its task twice, and two templates more.
        times = [3 if "parameterIterator" in task else 1 for task in tasks]
        size = sum(count * (len(encode(encode(task))) + TASK_FRAME) for count, task in zip(times, tasks, strict=True))
        return SHARED_TEMPLATES + len(encode(runtime)) + len(encode(arguments)) + size

    def add_dag(self, name: str, component: str) -> None:
        """Adds the node of a DAG, and all that it runs."""
        self.add_nodes(name, "DAG", {"parent-dag-id": "1", "condition": "true"})
        tasks = tasks_of(self.components[component])
        order = TopologicalSorter({key: task.get("dependentTasks", []) for key, task in tasks.items()})
        for task_name in order.static_order():
            task = tasks[task_name]
            inner, child = f"{name}(0).{task_name}", task["componentRef"]["name"]
            if "parameterIterator" in task:
                self.add_loop(inner, task_name, task)
            elif "dag" in self.components[child]:
                driven = {"component": encode(self.components[child]), "task": encode(task), "task-name": task_name}
                self.add_dag_driver(inner, driven)
                self.add_dag(inner, child)
            else:
                self.add_step(inner, task_name, task)
                self.growth[task_name] = self.frame + self.size

    def add_loop(self, name: str, task_name: str, task: dict[str, Any]) -> None:
        """Adds a loop: its driver, and in a group for each iteration a DAG, with a driver and the DAG that it runs.

        See compiler/dag.go, iteratorTask and iterationItemTask. As many iterations are reckoned with as may run at
        once.
        """
        child, count = task["componentRef"]["name"], task["iteratorPolicy"]["parallelismLimit"]
        driven = {"component": encode(self.components[child]), "task": encode(task), "task-name": task_name}
        self.values[task["parameterIterator"]["itemInput"]] = f"{count}/{count}"
        self.add_nodes(name, "DAG", {"parent-dag-id": "1"})
        self.add_dag_driver(f"{name}(0).iteration", driven)
        self.add_nodes(f"{name}(0).iteration-iterations", "TaskGroup", {})
        for number in range(count):
            inner = f"{name}(0).iteration-iterations({number}:{number})"
            self.add_nodes(inner, "DAG", {"parent-dag-id": "1", "iteration-index": str(number)})
            self.add_dag_driver(f"{inner}(0).iteration-item", {**driven, "iteration-index": str(number)})
            self.add_dag(f"{inner}(0).iteration-item", child)

    def add_dag_driver(self, name: str, inputs: dict[str, str]) -> None:
        """Adds the node that starts a DAG (compiler/dag.go, addDAGDriverTemplate)."""
        defaults = {"runtime-config": "", "task": "", "task-name": "", "parent-dag-id": "1", "iteration-index": "-1"}
        outputs = {"execution-id": "1", "iteration-count": "0", "condition": "true"}
        self.add_nodes(f"{name}-driver", "Pod", {**defaults, "driver-type": "ROOT_DAG", **inputs}, outputs)

    def add_step(self, name: str, task_name: str, task: dict[str, Any]) -> None:
        """Adds the nodes of a step: a driver, which makes the patch for its pod, and a DAG of one node, the pod.

        See compiler/container.go, addContainerDriverTemplate and addContainerExecutorTemplate.
        """
        component = self.components[task["componentRef"]["name"]]
        label = component["executorLabel"]
        patch = encode(self.pod_spec(task))
        driven = {
            "component": encode(component),
            "task": encode(task),
            "container": encode(self.containers[label]),
            "task-name": task_name,
            "parent-dag-id": "1",
            "iteration-index": "-1",
            "kubernetes-config": encode(self.kubernetes[label]) if label in self.kubernetes else "",
        }
        made = {"pod-spec-patch": patch, "cached-decision": "false", "condition": "true"}
        self.add_nodes(f"{name}-driver", "Pod", driven, made)
        self.add_nodes(name, "DAG", {"pod-spec-patch": patch, "cached-decision": "false"})
        self.add_nodes(f"{name}(0).executor", "Pod", {"pod-spec-patch": patch}, {})

    def value_of(self, source: dict[str, Any]) -> Any:
        """Returns the value of an input (driver/resolve.go); those of DAGs have the names of the pipeline's."""
        if "componentInputParameter" in source:
            return self.values.get(source["componentInputParameter"], True)
        if "runtimeValue" in source:
            constant = source["runtimeValue"]["constant"]
            return RUN_ID if constant == "{{$.pipeline_job_uuid}}" else constant
        return True  # another step's output: the gate's

    def pod_spec(self, task: dict[str, Any]) -> dict[str, Any]:
        """Returns the patch for a step's pod (driver/driver.go, initPodSpecPatch; driver/k8s.go)."""
        component = self.components[task["componentRef"]["name"]]
        container = self.containers[component["executorLabel"]]
        kubernetes = self.kubernetes.get(component["executorLabel"], {})
        parameters, outputs = task.get("inputs", {}).get("parameters", {}), component.get("outputDefinitions", {})
        inputs = {key: self.value_of(source) for key, source in parameters.items()}
        executor_input = {
            "inputs": {
                "parameterValues": inputs,
                "artifacts": {
                    key: artifact(key, METADATA.get(key, METADATA_OF_OTHERS))
                    for key in task.get("inputs", {}).get("artifacts", {})
                },
            },
            "outputs": {
                "parameters": {key: {"outputFile": f"/kfp/outputs/{key}"} for key in outputs.get("parameters", {})},
                "artifacts": {key: artifact(key) for key in [*outputs.get("artifacts", {}), "executor-logs"]},
                "outputFile": f"/minio/{STORE}/output_metadata.json",
            },
        }
        messages = ["--executor_input", encode_message(executor_input), "--component_spec", encode_message(component)]
        placeholder = r"{{\$.inputs.parameters\['(.*?)'\]}}"
        resources = re.sub(placeholder, lambda found: str(inputs[found[1]]), encode(container.get("resources", {})))
        configs = [self.value_of(item["configMapNameParameter"]) for item in kubernetes.get("configMapAsVolume", [])]
        claims = [self.value_of(mount["pvcNameParameter"]) for mount in kubernetes.get("pvcMount", [])]
        main = {
            "name": "main",
            "image": container["image"],
            "command": [*LAUNCHER.split(), *messages],
            "args": container["command"] + container["args"],
            "resources": json.loads(resources),
            "env": [
                {"name": key["envVar"], "valueFrom": {"secretKeyRef": {"name": name, "key": key["secretKey"]}}}
                for secret in kubernetes.get("secretAsEnv", [])
                for name in [self.value_of(secret["secretNameParameter"])]
                for key in secret["keyToEnv"]
            ],
            "volumeMounts": [{"name": name, "mountPath": "/mnt/nlp-pipeline"} for name in [*claims, *configs]],
        }
        volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
        volumes += [{"name": name, "configMap": {"name": name, "optional": True}} for name in configs]
        return {"containers": [main], "volumes": volumes}

    def add_nodes(self, name: str, kind: str, inputs: dict[str, str], outputs: dict[str, str] | None = None) -> None:
        """Adds a node, and above it the one that retries it, which has all that it has.

        KFP's templateDefaults make Argo retry all templates (manifests/kustomize/third-party/argo/base/
        workflow-controller-configmap-patch.yaml; argo: workflow/controller/operator.go, executeTemplate).

        The name is the upper node's, the kind the lower's; outputs are None for a DAG, which has no pod.
        """
        node = {
            "displayName": name.rpartition(".")[2],
            "templateName": "system-container-executor",
            "templateScope": f"local/{NAME}",
            "phase": "Succeeded",
            "boundaryID": node_id(name.rpartition(".")[0]),
            "startedAt": "2026-11-25T10:00:00Z",
            "finishedAt": "2026-11-25T10:00:00Z",
            "progress": "1/1",
            "resourcesDuration": {"cpu": 10, "memory": 100},
            "nodeFlag": {"retried": True},
            "inputs": {"parameters": [{"name": key, "value": value} for key, value in inputs.items()]},
            "children": [node_id(f"{name}(0)")],
        }
        if outputs is not None:
            node["outputs"] = {
                "parameters": [
                    {"name": key, "value": value, "valueFrom": {"path": f"/outputs/{key}", "default": "false"}}
                    for key, value in outputs.items()
                ],
                "artifacts": [
                    {"name": "main-logs", "s3": {"key": f"private-artifacts/kubeflow/{NAME}/2026/11/25/{NAME}"}}
                ],
                "exitCode": "0",
            }
            # All that a pod is given stands in its template (argo: workflow/controller/workflowpod.go).
            self.template = max(self.template, TEMPLATE_FRAME + sum(len(encode(value)) for value in inputs.values()))
        added = {
            node_id(full_name): {"id": node_id(full_name), "name": full_name, "type": node_type, **node}
            for full_name, node_type in ((name, "Retry"), (f"{name}(0)", kind))
        }
        self.nodes |= added
        self.size += len(encode(added)) - 1


def tasks_of(component: dict[str, Any]) -> dict[str, Any]:
    """Returns the tasks of a component, if it is a DAG."""
    return dict(component.get("dag", {}).get("tasks", {}))


def artifact(name: str, metadata: int = 0) -> dict[str, Any]:
    """Returns an artifact that a step is given, with so much metadata of its own, or that it is to make."""
    made = {"name": name, "uri": f"minio://{STORE}/{name}", "type": {"schemaTitle": "system.Metrics"}}
    known = {"display_name": name, "store_session_info": SESSION, "more": "x" * metadata}
    return {"artifacts": [{**made, "metadata": known} if metadata else made]}


def node_id(name: str) -> str:
    """Returns an id as long as Argo's, which are hashes of the names too."""
    return f"{NAME}-{zlib.crc32(name.encode())}"
