"""`make demo`: a DingTalk on localhost, every process of the assistant, and one question through the real path.

Runs `switchyard up` as anybody would, with a sandbox in the platform's place. Stays until Ctrl-C; type to ask more.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.client import SandboxClient
from sandbox.journal import ANSWERS
from sandbox.process import Sandbox, running_sandbox

START_LIMIT_S = 280.0
ANSWER_LIMIT_S = 120.0
FIRST_PORT, LAST_PORT = 8080, 8099
QUESTION = "What is the capital of France? Answer in one sentence."  # the small demo model speaks English
MADE_OF = (
    "frame over WebSocket -> listener -> mailbox (Valkey) -> Celery -> text worker with the model -> outbox -> sender "
    "-> card over HTTP"
)


class DemoFailed(RuntimeError):
    """The assistant did not start or did not answer."""


def main() -> None:
    """Start everything, ask one question, then stay."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as by Ctrl-C
    data_dir = Path(os.environ.get("SWITCHYARD_DATA_DIR", ".switchyard/demo")).absolute()
    try:
        with (
            running_sandbox() as sandbox,
            assistant(sandbox, data_dir) as (process, port),
            SandboxClient(sandbox.url) as client,
        ):
            converse(client, sandbox, process, port)
    except DemoFailed as exc:
        print(f"\ndemo failed: {exc}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("\nstopped")


@contextmanager
def assistant(sandbox: Sandbox, data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`switchyard up` on this sandbox, ready; yields its process and the port of its web process."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port = int(os.environ.get("SWITCHYARD_WEB_PORT", "0")) or free_port()
    settings = {
        "SWITCHYARD_DATA_DIR": str(data_dir),
        "SWITCHYARD_MODEL_CACHE_DIR": os.environ.get("SWITCHYARD_MODEL_CACHE_DIR", ".switchyard/models"),
        "SWITCHYARD_WEB_PORT": str(port),
        "SWITCHYARD_LOCALE": os.environ.get("SWITCHYARD_LOCALE", "en"),
        "SWITCHYARD_CARD_INTERVAL_MS": os.environ.get("SWITCHYARD_CARD_INTERVAL_MS", "300"),
    }
    # The demo stores next to nothing, and many a laptop has less free than the share that a server keeps.
    settings["SWITCHYARD_DISK_FREE_PERCENT"] = os.environ.get("SWITCHYARD_DISK_FREE_PERCENT", "0")
    log = data_dir / "up.log"
    print(f"starting every process (log: {os.path.relpath(log)}) ", end="", flush=True)
    alive_fd, our_end = os.pipe()  # it ends when we do, however we end
    settings["SWITCHYARD_ALIVE_FD"] = str(alive_fd)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "up"],
            env={**os.environ, **settings, **sandbox.environment()},
            pass_fds=[alive_fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,  # Ctrl-C is ours: it is passed on as SIGTERM, so that everything drains
        )
        try:
            wait_until_ready(process, log)
            yield process, port
        finally:
            process.terminate()
            process.wait()
            os.close(our_end)
            os.close(alive_fd)


def wait_until_ready(process: subprocess.Popen[str], log: Path) -> None:
    """Until the line `ready`, with a sign of life each second."""
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(process.stdout.readline() if process.stdout else ""))
    reader.daemon = True
    reader.start()
    began = time.monotonic()
    while reader.is_alive() and time.monotonic() - began < START_LIMIT_S:
        reader.join(1.0)
        print(".", end="", flush=True)
    if not lines or lines[0].strip() != "ready":
        raise DemoFailed(f"not ready after {time.monotonic() - began:.0f} s:\n{log.read_text()[-2000:]}")
    print(f" {time.monotonic() - began:.0f} s")


def free_port() -> int:
    """A free port, the usual one if it can be had."""
    for port in range(FIRST_PORT, LAST_PORT + 1):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise DemoFailed(f"ports {FIRST_PORT} to {LAST_PORT} are all taken; set SWITCHYARD_WEB_PORT")


def converse(client: SandboxClient, sandbox: Sandbox, process: subprocess.Popen[str], port: int) -> None:
    """The first question, then whatever is typed, until the end."""
    ask(client, QUESTION)
    print(f"\nThat answer went all the way: {MADE_OF}.")
    print(f"health and readiness: http://127.0.0.1:{port}/readyz    the platform's log: {sandbox.url}/sandbox/log")
    print("ready", flush=True)
    if sys.stdin.isatty():
        print("Type a question and press Enter (/help, /new and /status work too); Ctrl-C ends the demo.")
        for line in sys.stdin:
            if line.strip():
                ask(client, line.strip())
    process.wait()


def ask(client: SandboxClient, text: str) -> None:
    """Say something as a person in the sandbox, and show the card as it types."""
    print(f"\nAnn:       {text}\nAssistant: ", end="", flush=True)
    sent = client.send_text(text, conversation="cidDemo=", sender="ann", staff="ann", nick="Ann")
    began, shown, seen = time.monotonic(), "", int(sent["seq"])
    while time.monotonic() - began < ANSWER_LIMIT_S:
        for event in client.log(seen, "updated", *ANSWERS):
            seen = int(event["seq"])
            shown = show(str(event["text"]), shown)
            if event["kind"] in ANSWERS:
                print(f"\n           ({time.monotonic() - began:.1f} s)", flush=True)
                return
        time.sleep(0.1)
    raise DemoFailed(f"no answer within {ANSWER_LIMIT_S:.0f} s; see the logs in the data folder")


def show(text: str, shown: str) -> str:
    """Print what is new in a card; what is on the screen then."""
    print(text[len(shown) :] if text.startswith(shown) else f"\n           {text}", end="", flush=True)
    return text


if __name__ == "__main__":
    main()
