"""A real worker process, started as the supervisor starts it."""

import os
import select
import signal
import subprocess
from pathlib import Path

import msgspec

from app.message import Message
from app.process import READY_FD
from app.roles import roles
from app.settings import Pool, Settings
from sandbox.process import Sandbox
from tests.app.supervised import ROOT, environment

BOOT_S = 60.0
DRAIN_S = 6.0
LEAVE_S = 30.0  # a worker has left long before; a busy machine may be late


class Worker:
    """One pool's process, with the pipe on which it says that it is ready."""

    def __init__(self, pool: Pool, urls: dict[str, str], log: Path, **settings: str) -> None:
        self._log = log
        spec = next(spec for spec in roles(Settings(**urls)) if spec.role == pool)  # type: ignore[arg-type]
        named = {f"SWITCHYARD_{name.upper()}": value for name, value in urls.items()}
        self._word, said = os.pipe()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                spec.command(1),
                cwd=ROOT,
                env=environment(**{**named, "SWITCHYARD_DRAIN_S": str(DRAIN_S), **settings, READY_FD: str(said)}),
                stdout=output,
                stderr=output,
                pass_fds=[said],
            )
        os.close(said)

    def until_ready(self) -> "Worker":
        readable, _, _ = select.select([self._word], [], [], BOOT_S)
        assert readable, self.log
        assert os.read(self._word, 64) == b"ready\n", self.log
        return self

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def holds_torch(self) -> bool:
        return "libtorch" in Path(f"/proc/{self.process.pid}/maps").read_text()

    @property
    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def status(self, within_s: float) -> int:
        return self.process.wait(within_s)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._word)


def spoken_to(platform: Sandbox, message: Message) -> Message:
    """The message as somebody sent it to the platform's own robot."""
    address = msgspec.structs.replace(message.address, robot=platform.client_id)
    return msgspec.structs.replace(message, address=address)
