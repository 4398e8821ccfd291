"""Kubernetes' Pod Security Standards, "restricted": what a pod's spec breaks of them.

After https://kubernetes.io/docs/concepts/security/pod-security-standards/; of the volumes, those that pods here have.
"""

from typing import Any

VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}


def violations(spec: dict[str, Any]) -> list[str]:
    """Returns what "restricted" refuses in a pod's spec, a sentence each."""
    pod = spec.get("securityContext", {})
    problems = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    for volume in spec.get("volumes", []):
        problems += [f"volume {volume['name']} is a {kind}" for kind in volume.keys() - {"name"} - VOLUMES]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        name, own = container["name"], container.get("securityContext", {})
        both = pod | own
        capabilities = own.get("capabilities", {})
        rules = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation is not false": own.get("allowPrivilegeEscalation") is False,
            "not all capabilities are dropped": "ALL" in capabilities.get("drop", []),
            "capabilities are added": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot is not true": both.get("runAsNonRoot") is True,
            "runAsUser is 0": both.get("runAsUser") != 0,
            "no seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "a host port": not any(port.get("hostPort") for port in container.get("ports", [])),
        }
        problems += [f"{name}: {problem}" for problem, holds in rules.items() if not holds]
    return problems
