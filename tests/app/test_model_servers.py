"""What `switchyard doctor` says of the servers of the engine `openai`; the servers are real."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.finding import Finding
from app.model_servers import model_servers
from app.settings import Settings
from tests.workers.engine.openai.model_server import KEY, MODEL, ModelServer, model_server


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture(autouse=True)
def an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anybody's `.env`."""
    monkeypatch.chdir(tmp_path)


def found(*urls: str, model: str = MODEL, key: str = "", **more: Any) -> list[Finding]:
    settings = Settings(engine="openai", model=model, openai_base_urls=urls, openai_api_key=SecretStr(key), **more)
    return list(model_servers(settings))


def test_a_server_that_has_the_model(server: ModelServer) -> None:
    (finding,) = found(server.url("echo"))

    assert (finding.verdict, finding.says) == ("ok", "answers and has smol")
    assert finding.check == f"model server 127.0.0.1:{server.port}"


def test_each_server_has_its_own_line(server: ModelServer) -> None:
    """One that is away does not hide the other."""
    away, there = found("http://127.0.0.1:9/v1", server.url("echo"))

    assert (away.verdict, there.verdict) == ("fault", "ok")
    assert "SWITCHYARD_OPENAI_BASE_URLS" in away.mend


def test_a_server_that_serves_another_model(server: ModelServer) -> None:
    """vLLM's list is complete; another server may load a model when it is asked for."""
    verdicts = [finding.verdict for finding in found(server.url("vllm"), server.url("echo"), model="large")]

    assert verdicts == ["fault", "warning"]


def test_a_key_that_is_refused(server: ModelServer) -> None:
    (without,), (right,) = found(server.url("locked")), found(server.url("locked"), key=KEY)

    assert (without.verdict, without.mend) == ("fault", "set SWITCHYARD_OPENAI_API_KEY")
    assert right.verdict == "ok"


def test_what_is_no_model_server(server: ModelServer) -> None:
    (finding,) = found(server.url("echo").removesuffix("/v1") + "/nowhere")

    assert finding.verdict == "warning"
    assert KEY not in finding.line()
