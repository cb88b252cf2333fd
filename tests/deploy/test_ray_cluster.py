"""The manifests of a cluster of gateways and workers: valid, closed, and in step with the code.

KubeRay's own resource has no schema that can be had here: its pods are validated as pods.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.config import EngineKind, load_settings
from tests.deploy.monitoring import ROOT

MANIFESTS = ROOT / "docker/kubernetes/ray.yml"


def manifests() -> dict[str, dict[str, Any]]:
    return {d["kind"]: d for d in yaml.safe_load_all(MANIFESTS.read_text("utf-8"))}


def groups() -> dict[str, dict[str, Any]]:
    """The groups of the cluster's nodes by name."""
    spec = manifests()["RayCluster"]["spec"]
    named = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"], **named}


def pods() -> dict[str, dict[str, Any]]:
    """Pod templates by the group they are of."""
    return {name: group["template"] for name, group in groups().items()}


def test_it_is_valid(tmp_path: Path) -> None:
    documents = [d for kind, d in manifests().items() if kind != "RayCluster"]
    for name, template in pods().items():
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": name, **template["metadata"]}
        documents.append(pod)
    (tmp_path / "all.yml").write_text(yaml.safe_dump_all(documents))
    program = str(Path(sys.executable).parent / "kubernetes-validate")
    command = [program, "--strict", str(tmp_path / "all.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_settings_start_a_gateway(tmp_path: Path) -> None:
    text = manifests()["ConfigMap"]["data"]["resq.toml"]
    (tmp_path / "resq.toml").write_text(text)
    pytest.importorskip("ray")
    config = load_settings(tmp_path / "resq.toml").config
    assert config.require_keys, "it listens beyond its pod"
    assert config.engine is EngineKind.RAY
    assert {name: getattr(config, name) for name in tomllib.loads(text)} == tomllib.loads(text)
    workers = groups()["workers"]
    assert workers["maxReplicas"] == config.ray_max_workers
    assert workers["replicas"] == config.ray_workers
    assert workers["rayStartParams"]["num-cpus"] == str(config.threads or 1)
    assert {groups()[n]["rayStartParams"]["num-cpus"] for n in ("head", "gateways")} == {"0"}


def test_versions_are_those_of_the_package() -> None:
    pinned = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert f"ray=={manifests()['RayCluster']['spec']['rayVersion']}" in pinned
    images = {c["image"] for pod in pods().values() for c in pod["spec"]["containers"]}
    assert images == {f"resq-ray:{version('resq')}"}


def test_nothing_is_open_that_need_not_be() -> None:
    for name, pod in pods().items():
        assert pod["spec"]["securityContext"]["runAsNonRoot"], name
        assert not pod["spec"]["automountServiceAccountToken"], name
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["limits"]["memory"], name
            assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= {e["name"] for e in container["env"]}
    policy = manifests()["NetworkPolicy"]["spec"]
    labels = policy["podSelector"]["matchLabels"].items()
    assert all(labels <= pod["metadata"]["labels"].items() for pod in pods().values())
    [inside, outside] = policy["ingress"]
    assert inside["from"] == [{"podSelector": policy["podSelector"]}]
    assert outside == {"ports": [{"protocol": "TCP", "port": "http"}]}


def test_the_parts_find_each_other() -> None:
    selector = manifests()["Service"]["spec"]["selector"].items()
    found = [name for name, pod in pods().items() if selector <= pod["metadata"]["labels"].items()]
    assert found == ["gateways"]
    for name, pod in pods().items():
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
    [ray, server] = pods()["gateways"]["spec"]["containers"]
    shared = {mount["mountPath"] for mount in ray["volumeMounts"]}
    assert shared >= {"/tmp", "/dev/shm"}, "a driver meets its raylet there"
    assert shared <= {mount["mountPath"] for mount in server["volumeMounts"]}
    ports = [pod["spec"]["containers"][0]["livenessProbe"]["tcpSocket"] for pod in pods().values()]
    assert [port["port"] for port in ports] == [6379, 6380, 6380]
    for name in ("workers", "gateways"):
        assert groups()[name]["rayStartParams"]["node-manager-port"] == "6380"
