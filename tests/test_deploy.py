"""The files for Docker Compose and Kubernetes keep their schemas and the rules of the house."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
COMPOSE, MANIFEST = ROOT / "docker-compose.yml", ROOT / "deploy" / "kubernetes" / "vllm.yaml"


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)


def served(arguments: list[str]) -> dict[str, str]:
    """The options of `vllm serve` by name."""
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments if argument.startswith("--"))


def containers() -> list[dict[str, Any]]:
    documents = yaml.safe_load_all(MANIFEST.read_text())
    return [
        each
        for one in documents
        if one["kind"] == "Deployment"
        for each in one["spec"]["template"]["spec"]["containers"]
    ]


def test_the_compose_file_keeps_its_schema(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(COMPOSE.read_text().replace("profiles:", "profile:"))
    schema = ("--builtin-schema", "vendor.compose-spec")

    assert run("check_jsonschema", *schema, str(COMPOSE)).returncode == 0
    assert run("check_jsonschema", *schema, str(wrong)).returncode == 1


def test_the_manifest_keeps_its_schema(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MANIFEST.read_text().replace("replicas: 1", "replicas: one"))

    assert run("kubernetes_validate", "--strict", str(MANIFEST)).returncode == 0
    assert run("kubernetes_validate", "--strict", str(wrong)).returncode == 1


def test_nothing_of_compose_listens_beyond_this_machine_and_no_secret_has_a_default() -> None:
    text = COMPOSE.read_text()

    ports = [port for service in yaml.safe_load(text)["services"].values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert re.findall(r"\$\{\w*(?:KEY|SECRET|PASSWORD|TOKEN)\w*", text)
    assert not re.findall(r"\$\{\w*(?:KEY|SECRET|PASSWORD|TOKEN)\w*:?-", text)


def test_the_manifest_has_its_key_from_a_secret_and_no_name_that_vllm_reads() -> None:
    names = [document["metadata"]["name"] for document in yaml.safe_load_all(MANIFEST.read_text())]
    keys = [each for container in containers() for each in container["env"] if each["name"] == "VLLM_API_KEY"]

    assert "vllm" not in names
    assert keys
    assert all("secretKeyRef" in each["valueFrom"] for each in keys)


def test_both_serve_one_model_over_four_gpus_as_the_page_says() -> None:
    page = (ROOT / "docs" / "gpus.md").read_text()
    service = yaml.safe_load(COMPOSE.read_text())["services"]["model"]
    (container,) = containers()
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]

    assert service["entrypoint"] == container["command"] == ["vllm", "serve"]
    assert service["image"] == container["image"]
    assert served(service["command"]).keys() == served(container["args"]).keys()
    assert {served(one)["tensor-parallel-size"] for one in (service["command"], container["args"])} == {"4"}
    assert device["count"] == container["resources"]["limits"]["nvidia.com/gpu"] == 4
    for name, value in served(container["args"]).items():
        assert f"--{name} {value}" in page, f"--{name}={value} is not what docs/gpus.md runs"
