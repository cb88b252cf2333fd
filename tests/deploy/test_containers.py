"""The image's recipe, the compose file and the manifests: valid, closed, and in step with the code.

`scripts/image.sh` builds the image and runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from service.config import Config, load_settings
from tests.deploy.monitoring import ROOT

BIN = Path(sys.executable).parent
DOCKERFILE = ROOT / "docker/Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
COMPOSE_GPU = ROOT / "docker/compose.gpu.yml"
MANIFESTS = ROOT / "docker/kubernetes/resq.yml"
PATCH_GPU = ROOT / "docker/kubernetes/gpu.yml"
PROMETHEUS = ROOT / "docker/prometheus/prometheus.yml"


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
    return found


def merged(whole: Any, part: Any) -> Any:
    """`part` laid over `whole` as Compose and `kubectl patch` do: lists with names are merged by
    them, other values replaced."""
    if isinstance(whole, dict) and isinstance(part, dict):
        both = {name: merged(whole.get(name), value) for name, value in part.items()}
        return {**whole, **both}
    if isinstance(whole, list) and all(isinstance(x, dict) and "name" in x for x in whole + part):
        named = {x["name"]: x for x in whole}
        return list(
            {**named, **{x["name"]: merged(named.get(x["name"]), x) for x in part}}.values()
        )
    return part


def manifests() -> dict[str, dict[str, Any]]:
    return {d["kind"]: d for d in yaml.safe_load_all(MANIFESTS.read_text("utf-8"))}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize(
    "command",
    [
        ("hadolint", str(DOCKERFILE)),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_GPU)),
        ("kubernetes-validate", "--strict", str(MANIFESTS)),
    ],
    ids=lambda command: f"{command[0]} {Path(command[-1]).name}",
)
def test_it_is_valid(command: tuple[str, ...]) -> None:
    program = str(BIN / command[0])
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_in_them_are_settings() -> None:
    files = "".join(path.read_text("utf-8") for path in (DOCKERFILE, COMPOSE, COMPOSE_GPU))
    named = set(re.findall(r"^\s*(?:ENV )?RESQ_([A-Z_]+)[=:]", files, re.MULTILINE))
    assert named >= {"HOST", "DATA_DIR", "DEVICE", "INSECURE", "LOG_FORMAT"}
    assert {name.lower() for name in named} <= set(Config.model_fields)


def test_the_settings_of_the_manifest_start_a_server(tmp_path: Path) -> None:
    text = manifests()["ConfigMap"]["data"]["resq.toml"]
    (tmp_path / "resq.toml").write_text(text)
    config = load_settings(tmp_path / "resq.toml").config
    assert config.require_keys, "it listens beyond its pod"
    assert {name: getattr(config, name) for name in tomllib.loads(text)} == tomllib.loads(text)


def test_nothing_is_open_that_need_not_be() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
    assert pod()["securityContext"]["runAsNonRoot"]
    assert not pod()["automountServiceAccountToken"]
    [container] = pod()["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    users = re.findall(r"^USER (\S+)$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    assert users == ["10001:10001"]


def test_images_are_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    images = [service["image"] for service in compose()["services"].values()]
    images += [container["image"] for container in pod()["containers"]]
    for image in [*(base for base in bases if ":" in base), *images]:
        assert re.search(r":\D*\d+[.\d-]*\d", image), image
    assert {i for i in images if i.startswith("resq:")} == {f"resq:{version('resq')}"}


def test_the_parts_find_each_other() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            is_there = (ROOT / source).is_dir() if "/" in source else source in compose()["volumes"]
            assert is_there, f"{name}: {volume}"
    [job] = yaml.safe_load(PROMETHEUS.read_text("utf-8"))["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert services[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"EXPOSE {port}" in DOCKERFILE.read_text("utf-8")
    source = yaml.safe_load(
        (ROOT / "docker/grafana/provisioning/datasources/prometheus.yml").read_text("utf-8")
    )
    address = source["datasources"][0]["url"].removeprefix("http://")
    assert services["prometheus"]["ports"] == [f"127.0.0.1:9090:{address.split(':')[1]}"]
    assert address.split(":")[0] in services


def test_probes_ask_what_the_server_answers() -> None:
    [container] = pod()["containers"]
    asked = {
        kind: container[kind]["httpGet"]["path"]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert asked == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/healthz",
    }
    labels = manifests()["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert manifests()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests()["Service"]["spec"]["selector"] == labels
    assert manifests()["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels


def test_the_image_for_gpus_is_the_other_one_but_for_torch() -> None:
    stages: dict[str, tuple[str, str]] = {}
    text = DOCKERFILE.read_text("utf-8")
    for base, name, body in re.findall(
        r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.M | re.S
    ):
        stages[name] = base, body
    assert list(stages)[-1] == "cpu", "what is built where no target is named"
    assert stages["cuda"][0] == stages["cpu"][0] == "server"
    for part in ("USER", "HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL", "VOLUME"):
        assert [name for name, (_, body) in stages.items() if f"\n{part} " in body] == ["server"]
    pins = {name: re.findall(r"ARG TORCH=(\S+)", body) for name, (_, body) in stages.items()}
    assert pins["build-cuda"] == pins["build-cpu"] == [Version(version("torch")).base_version]
    assert "RESQ_DEVICE=cuda" in stages["cuda"][1]


def test_a_gpu_is_laid_over_the_rest(tmp_path: Path) -> None:
    over = yaml.safe_load(COMPOSE_GPU.read_text("utf-8"))
    server = merged(compose(), over)["services"]["server"]
    assert server["build"] == {"context": ".", "dockerfile": "docker/Dockerfile", "target": "cuda"}
    assert server["image"] == f"resq-cuda:{version('resq')}"
    assert server["read_only"]
    [device] = server["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])

    patched = merged(manifests()["StatefulSet"], yaml.safe_load(PATCH_GPU.read_text("utf-8")))
    (tmp_path / "patched.yml").write_text(yaml.safe_dump(patched))
    command = [str(BIN / "kubernetes-validate"), "--strict", str(tmp_path / "patched.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [container] = patched["spec"]["template"]["spec"]["containers"]
    assert container["image"] == server["image"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert container["securityContext"] == pod()["containers"][0]["securityContext"]
