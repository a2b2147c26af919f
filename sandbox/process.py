"""A sandbox in a process of its own, for tests and tools."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

START_S = 20.0


class SandboxFailed(RuntimeError):
    """The process ended, or said nothing, before it was ready."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where a running sandbox is, and what an app needs to use it."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    template_id: str
    pid: int = 0

    def environment(self) -> dict[str, str]:
        """The variables that point a DingTalk client here."""
        return {
            "DINGTALK_CLIENT_ID": self.client_id,
            "DINGTALK_CLIENT_SECRET": self.client_secret,
            "DINGTALK_CARD_TEMPLATE_ID": self.template_id,
            "DINGTALK_OPENAPI_ENDPOINT": self.url,
            "DINGTALK_OAPI_ENDPOINT": self.url,
        }


@contextmanager
def running_sandbox(*arguments: str) -> Iterator[Sandbox]:
    """Start `python -m sandbox` on a free port with these further arguments, and end it afterwards.

    Raises:
        SandboxFailed: it was not ready within 20 s.
    """
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        ready = Path(folder) / "ready.json"
        command = [sys.executable, "-m", "sandbox", "--credentials-file", str(ready), "--stop-with-stdin", *arguments]
        root = Path(__file__).resolve().parent.parent
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=root)
        try:
            yield _when_ready(process, ready)
        finally:
            _end(process)


def _when_ready(process: subprocess.Popen[bytes], ready: Path) -> Sandbox:
    deadline = time.monotonic() + START_S
    while not ready.exists():
        if process.poll() is not None:
            raise SandboxFailed(f"the sandbox ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise SandboxFailed("the sandbox was not ready in time")
        time.sleep(0.02)
    return Sandbox(**msgspec.json.decode(ready.read_bytes()), pid=process.pid)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
