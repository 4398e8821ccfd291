"""What the training on several nodes needs of a cluster: Kubeflow Trainer, a training runtime, and rights."""

from nlp_pipeline.deploy.cluster import NotThereError, api, call
from nlp_pipeline.train_job.job import GROUP, PLURAL, VERSION

# The verbs that a step needs in its own namespace, by API group and resource. The cluster's runtimes are of none:
# where they may not be read, they are taken to be there.
ACCESS = {
    (GROUP, PLURAL): ["get", "create", "delete"],
    (GROUP, "trainingruntimes"): ["get"],
    ("", "pods"): ["get", "list"],
    ("", "pods/log"): ["get"],
}
NODES = "or set train_nodes=1"


def find_runtime(name: str, namespace: str) -> tuple[str, str]:
    """Returns the kind of a training runtime, and its name; a namespace's own comes before the cluster's.

    Raises:
        NotThereError: There is none, or the cluster has no Kubeflow Trainer.
    """
    custom = api("CustomObjectsApi")
    asking = "looking for Kubeflow Trainer"
    if call(asking, custom.get_api_resources, GROUP, VERSION, expected=(404,)) == 404:
        raise NotThereError(f"Kubeflow Trainer is not installed in this cluster: install 2.2 or later, {NODES}")
    doing = f"looking for training runtime {name}"
    own = (GROUP, VERSION, namespace, "trainingruntimes", name)
    if call(doing, custom.get_namespaced_custom_object, *own, expected=(403, 404)) not in (403, 404):
        return "TrainingRuntime", name
    shared = (GROUP, VERSION, "clustertrainingruntimes", name)
    if call(doing, custom.get_cluster_custom_object, *shared, expected=(403, 404)) == 404:
        raise NotThereError(
            f"train_runtime={name}: namespace {namespace} has no such TrainingRuntime, and the cluster no such "
            f"ClusterTrainingRuntime: kubectl get clustertrainingruntimes lists those that there are, {NODES}"
        )
    return "ClusterTrainingRuntime", name
