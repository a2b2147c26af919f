"""Certificates are checked, against those of the system or of a file."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.errors import BadSetting, EngineUnavailable
from app.model_servers import model_servers
from app.settings import Settings
from tests.machine import lacking
from tests.workers.engine.asking import ask
from tests.workers.engine.openai.model_server import KEY, MODEL, ModelServer
from workers.engine.openai.engine import OpenAIEngine


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that nobody signed but itself; the key lies beside it."""
    if shutil.which("openssl") is None:
        lacking("openssl", "apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=model", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(["openssl", "req", "-x509", *ec, *names, *files], check=True, capture_output=True)
    return folder / "certificate.pem"


@pytest.fixture
def url(certificate: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with ModelServer() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server.url("locked").replace("http:", "https:")
        server.shutdown()
        thread.join()


def an_engine(url: str, ca_file: Path | None) -> OpenAIEngine:
    return OpenAIEngine([url], model=MODEL, slots=1, max_tokens=512, api_key=KEY, ca_file=ca_file)


def test_a_server_whose_certificate_is_trusted_answers(url: str, certificate: Path) -> None:
    with closing(an_engine(url, certificate)) as engine:
        engine.look_around()

        assert engine.submit(ask("hello")).result().text == "hello"


def test_the_key_is_never_shown_to_a_server_with_a_strange_certificate(url: str) -> None:
    with closing(an_engine(url, None)) as engine:
        with pytest.raises(EngineUnavailable, match="SWITCHYARD_OPENAI_CA_FILE"):
            engine.submit(ask("hello")).result()
        with pytest.raises(BadSetting, match="SWITCHYARD_OPENAI_CA_FILE"):
            engine.look_around()


def test_a_file_without_certificates_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")

    with pytest.raises(BadSetting, match="SWITCHYARD_OPENAI_CA_FILE"):
        an_engine("https://127.0.0.1:9/v1", tmp_path / "ca.pem")


def test_doctor_checks_it_too(url: str, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without anybody's .env
    asked: dict[str, Any] = {
        "engine": "openai",
        "model": MODEL,
        "openai_base_urls": (url,),
        "openai_api_key": SecretStr(KEY),
    }

    (strange,) = model_servers(Settings(**asked))
    (trusted,) = model_servers(Settings(**asked, openai_ca_file=certificate))
    (unread,) = model_servers(Settings(**asked, openai_ca_file=Path(__file__)))

    assert (strange.verdict, strange.mend) == ("fault", "set SWITCHYARD_OPENAI_CA_FILE")
    assert trusted.verdict == "ok"
    assert (unread.verdict, unread.mend) == ("fault", "correct SWITCHYARD_OPENAI_CA_FILE")
