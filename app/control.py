"""The supervisor's door: a unix socket in the data folder, one line of JSON each way, for its owner alone.

Requests are `{"do": "ps"}`, `{"do": "scale", "pools": {"text": 3}}`, `{"do": "restart", "roles": ["text"]}` and
`{"do": "stop"}`.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from app.errors import BadSetting, Permanent

SOCKET_NAME = "control.sock"
RESTART_UNDER_WAY, RESTART_DONE = "under way", "done"  # else the words say where it stopped
_LINE_LIMIT_BYTES = 65_536
_PATIENCE_S = 5.0

Answer = dict[str, Any]
Handler = Callable[[Answer], Answer]


class NotRunning(Permanent):
    """No supervisor answers on this data folder."""


def ask(data_dir: Path, request: Answer) -> Answer:
    """Ask the supervisor of this data folder, and wait at most five seconds for its answer.

    Raises:
        NotRunning: there is none; the text names the mend.
        BadSetting: it refused; the text says what would be right.
    """
    try:
        with _address(data_dir) as address, socket.socket(socket.AF_UNIX) as door:
            door.settimeout(_PATIENCE_S)
            door.connect(address)
            door.sendall(json.dumps(request).encode() + b"\n")
            with door.makefile("rb") as lines:
                answer: Answer = json.loads(lines.readline())
    except (OSError, ValueError) as exc:
        raise NotRunning(
            f"no supervisor answers on {data_dir}: start one with `switchyard up`, or set SWITCHYARD_DATA_DIR to the "
            "folder of the one that runs"
        ) from exc
    if "error" in answer:
        raise BadSetting(str(answer["error"]))
    return answer


@contextlib.asynccontextmanager
async def serve(data_dir: Path, handler: Handler) -> AsyncIterator[None]:
    """Answer requests with `handler` while the context is open; what it raises as BadSetting is told to the caller."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):  # the caller went away or spoke too long
            async with asyncio.timeout(_PATIENCE_S):
                writer.write(_answer(await reader.readline(), handler) + b"\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(talk, sock=_listening(data_dir), limit=_LINE_LIMIT_BYTES)
    try:
        yield
    finally:
        server.close()
        (data_dir / SOCKET_NAME).unlink(missing_ok=True)


def _answer(line: bytes, handler: Handler) -> bytes:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise BadSetting("a request is one JSON object on one line")
        answer = handler(request)
    except (BadSetting, ValueError, RecursionError) as exc:
        answer = {"error": str(exc)}
    return json.dumps(answer).encode()


def _listening(data_dir: Path) -> socket.socket:
    (data_dir / SOCKET_NAME).unlink(missing_ok=True)  # left by one that was killed; we hold the folder's lock
    door = socket.socket(socket.AF_UNIX)
    with _address(data_dir) as address:
        door.bind(address)
    (data_dir / SOCKET_NAME).chmod(0o600)  # nobody can connect before listen()
    door.listen(16)
    door.setblocking(False)
    return door


@contextlib.contextmanager
def _address(data_dir: Path) -> Iterator[str]:
    """The socket's path through an open folder: a unix socket's path ends at 108 bytes, a data folder's need not."""
    folder = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_NAME}"
    finally:
        os.close(folder)
