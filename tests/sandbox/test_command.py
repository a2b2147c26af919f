"""`python -m sandbox` from outside."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_command_prints_one_ready_line_and_keeps_the_secret_to_itself(tmp_path: Path) -> None:
    port_file, secret = tmp_path / "port", "from-the-environment"
    command = [sys.executable, "-m", "sandbox", "--port-file", str(port_file), "--client-id", "ding1"]
    process = subprocess.Popen(
        [*command, "--client-secret-env", "SANDBOX_SECRET", "--stop-with-stdin"],
        env={**os.environ, "SANDBOX_SECRET": secret},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    output, _ = process.communicate("", timeout=20)

    assert output == f"sandbox ready http://127.0.0.1:{port_file.read_text()}\n"
    assert process.returncode == 0
    assert port_file.stat().st_mode & 0o077 == 0


def test_who_leaves_in_the_middle_of_a_request_is_no_fault(tmp_path: Path) -> None:
    """Senders that are killed do; a page of tracebacks would hide what matters."""
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "sandbox", "--port-file", str(port_file), "--client-id", "ding1"]
    process = subprocess.Popen(
        [*command, "--client-secret-env", "SANDBOX_SECRET", "--stop-with-stdin"],
        env={**os.environ, "SANDBOX_SECRET": "from-the-environment"},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline().startswith("sandbox ready")
    with socket.create_connection(("127.0.0.1", int(port_file.read_text())), timeout=20) as leaving:
        leaving.sendall(b"PUT /v1.0/card/streaming HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{")

    _, complaints = process.communicate("", timeout=20)

    assert process.returncode == 0
    assert complaints == ""


def test_an_empty_secret_stops_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sandbox", "--client-secret-env", "SANDBOX_NO_SUCH_SECRET"]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)

    assert ended.returncode == 1
    assert "SANDBOX_NO_SUCH_SECRET is empty" in ended.stderr


def test_the_sandbox_imports_nothing_of_the_system_that_it_serves() -> None:
    """Otherwise it would agree with our own mistakes."""
    script = "import sys, sandbox.__main__, sandbox.process, sandbox.probe; print(*sorted(sys.modules))"

    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )

    assert not {name.partition(".")[0] for name in run.stdout.split()} & {"app", "workers", "skills"}
