"""A supervisor at its daily work: start, restart, scale, stop. Its servers are real, its workers are toys."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.child import Backoff
from app.control import ask
from app.errors import BadSetting
from app.servers import last_known
from tests.app.supervised import CREDENTIALS, Supervised, eventually, is_gone
from tests.valkey import free_port

Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a supervisor on this test's folder, whose path is longer than a unix socket's may be."""
    started: list[Supervised] = []

    def start_one(*arguments: str, **settings: str) -> Supervised:
        started.append(Supervised(tmp_path / ("long" * 30) / "data", *arguments, settings=settings))
        return started[-1]

    yield start_one
    for one in started:
        one.end()


def test_everything_is_started_and_listed(start: Start) -> None:
    """`ready` is the word for which scripts and people wait; `ps` is what acceptance and operators read."""
    running = start(SWITCHYARD_POOLS="text=2,image=0").until_ready()

    processes = running.ps()

    assert [(one["role"], one["queue"]) for one in processes] == [
        ("redis", None),
        ("broker", None),
        ("listener", None),
        ("text", "text"),
        ("text", "text"),
        ("default", "default"),
        ("sender", "send"),
    ]
    assert {one["state"] for one in processes} == {"ready"}
    assert all(one["pid"] > 1 and 0 <= one["uptime_s"] < 60 for one in processes)
    assert set(processes[0]) == {"role", "pid", "queue", "state", "uptime_s", "boot_s"}


def test_a_process_that_has_grown_is_drained_and_replaced(start: Start) -> None:
    """A leak costs a restart, not the machine; a toy weighs some 20 MB."""
    running = start(SWITCHYARD_MAX_RSS_MB="text=5").until_ready()
    first = running.pid("text")

    eventually(lambda: running.ready("text") and running.pid("text") != first)

    assert running.ready("default")


def test_a_killed_child_is_replaced_at_once(start: Start) -> None:
    """Its conversations wait for the next one's start, and for nothing of ours."""
    running = start().until_ready()
    killed = running.pid("text")

    os.kill(killed, signal.SIGKILL)
    eventually(lambda: running.ready("text") not in ([], [killed]))

    assert "status=-9" in running.complained
    assert "wait_s=0.0" in running.complained
    assert running.said == "ready\n"  # once, for the first time


def test_who_keeps_dying_soon_waits_longer_and_longer() -> None:
    """A process that cannot start must not take the machine from those that work."""
    backoff = Backoff()

    waits = [backoff.after(lived_s=1, was_ready=False, replace=False) for _ in range(9)]
    after_a_long_life = [backoff.after(lived_s=lived_s, was_ready=False, replace=False) for lived_s in (60, 1)]

    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert after_a_long_life == [0, 0.5]


def test_who_was_ready_is_started_again_within_a_second() -> None:
    """However often it is killed: people wait for it."""
    backoff = Backoff()

    waits = [backoff.after(lived_s=1, was_ready=True, replace=False) for _ in range(5)]
    cannot_start_any_more = [backoff.after(lived_s=1, was_ready=False, replace=False) for _ in range(3)]

    assert waits == [0, 0.5, 1, 1, 1]
    assert cannot_start_any_more == [1, 2, 4]


def test_who_asks_to_be_replaced_does_not_wait() -> None:
    backoff = Backoff()

    waits = [backoff.after(lived_s=1, was_ready=True, replace=True) for _ in range(3)]

    assert waits == [0, 0, 0]


def test_a_worn_out_child_is_replaced(start: Start, tmp_path: Path) -> None:
    """Status 75 is how a worker with a hung turn asks for a fresh process."""
    worn = tmp_path / "worn"
    running = start(f"default:worn={worn}").until_ready()
    first = running.pid("default")

    for _ in range(3):  # a death of its own would wait 0.5 s at the second and 1 s at the third
        before = running.ready("default")
        worn.touch()
        eventually(lambda before=before: running.ready("default") not in ([], before))  # type: ignore[misc]

    assert running.pid("default") != first
    assert re.findall(r"status=75 .*wait_s=([\d.]+)", running.complained) == ["0.0"] * 3


def test_a_child_that_dies_at_once_does_not_stop_the_others(start: Start) -> None:
    running = start("image:dies")

    eventually(lambda: running.answers() and running.ready("text") and running.ps("image")[0]["state"] == "restarting")
    eventually(lambda: "wait_s=0.5" in running.complained)

    assert running.said == ""  # never ready as a whole
    assert running.stop() == 0


def test_pools_grow_and_shrink_while_running(start: Start) -> None:
    running = start().until_ready()
    (oldest,) = running.ready("text")

    ask(running.data_dir, {"do": "scale", "pools": {"text": 3, "image": 0}})
    eventually(lambda: len(running.ready("text")) == 3 and not running.ps("image"))
    newest = running.ready("text")[-1]
    ask(running.data_dir, {"do": "scale", "pools": {"text": 1}})
    eventually(lambda: running.ready("text") == [oldest] and len(running.ps("text")) == 1)

    assert is_gone(newest)
    assert "asked at" in running.log_of("text-3")  # by SIGTERM: it could finish what it did


@pytest.mark.parametrize("pools", [{"text": -1}, {"text": 65}, {"text": "2"}, {"text": True}, {"redis": 2}, {"": 1}])
def test_an_impossible_scale_is_refused_and_changes_nothing(any_running: Supervised, pools: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match="write it as text=2"):
        ask(any_running.data_dir, {"do": "scale", "pools": {"default": 2} | pools})

    assert len(any_running.ps("default")) == 1


@pytest.mark.parametrize("request_", [{}, {"do": "scale", "pools": []}, {"do": "dance"}])
def test_an_unknown_request_is_refused(any_running: Supervised, request_: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match="a request is"):
        ask(any_running.data_dir, request_)


def test_secrets_stay_out_of_command_lines_and_logs(any_running: Supervised) -> None:
    """Anybody on the machine can list processes, and logs travel far."""
    servers = [last_known("redis", any_running.data_dir), last_known("broker", any_running.data_dir)]
    secrets = [server.password for server in servers if server] + [CREDENTIALS["DINGTALK_CLIENT_SECRET"]]

    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in [*any_running.pids(), any_running.warden()]]
    logs = [path.read_text() for path in (any_running.data_dir / "logs").iterdir()]
    shown = "\n".join([*commands, *logs, any_running.complained, str(any_running.ps())])

    assert len(secrets) == 3
    assert not [secret for secret in secrets if secret in shown]
    assert (any_running.data_dir / "control.sock").stat().st_mode & 0o777 == 0o600


def test_stopping_is_in_order_and_in_time(start: Start) -> None:
    """Nothing new comes in while the workers finish, and the servers are there until all have written."""
    running = start("sender:stubborn", SWITCHYARD_DRAIN_S="6").until_ready()
    pids = running.pids()

    began = time.monotonic()
    status = running.stop()

    assert status == 0
    assert time.monotonic() - began < 6 + 2  # two more for a busy machine
    assert all(map(is_gone, pids))
    listener, text, sender = (running.log_of(f"{role}-1") for role in ("listener", "text", "sender"))
    assert _when("ended", listener) < _when("asked", text)
    assert _when("told", sender) < _when("asked", text) < _when("asked", sender)  # it knows how long it has
    assert "told" not in text
    assert "asked" in sender
    assert "ended" not in sender  # it had to be killed
    assert "User requested shutdown" in running.log_of("redis-1") or "SIGTERM" in running.log_of("redis-1")


def test_a_sender_that_is_starting_while_everything_stops_goes_first(start: Start, tmp_path: Path) -> None:
    """It could not hear how long it has, and would begin calls that are cut off."""
    gate = tmp_path / "gate"
    gate.touch()
    running = start(f"sender:gate={gate}", SWITCHYARD_DRAIN_S="6").until_ready()
    gate.unlink()
    killed = running.pid("sender")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: running.ps("sender")[0]["pid"] not in (None, killed))

    assert running.stop() == 0

    sender, text = running.log_of("sender-1"), running.log_of("text-1")
    assert not re.search("^asked", sender, re.M) or _when("asked", sender) < _when("asked", text)


def test_ctrl_c_stops_it_like_sigterm(start: Start) -> None:
    running = start().until_ready()

    running.process.send_signal(signal.SIGINT)

    assert running.process.wait(timeout=20) == 0


def test_it_can_be_stopped_before_it_is_ready(start: Start, tmp_path: Path) -> None:
    running = start(f"text:gate={tmp_path / 'never'}")
    eventually(lambda: running.answers() and running.ps("text"))

    assert running.stop() == 0
    assert running.said == ""


def test_readiness_over_http_waits_for_every_process(start: Start, tmp_path: Path) -> None:
    """A load balancer that trusts /readyz must not send anybody to a machine that loads its model."""
    gate, port = tmp_path / "gate", free_port()
    running = start(f"text:gate={gate}", "listener:connected", "real:web", SWITCHYARD_WEB_PORT=str(port))
    eventually(lambda: running.answers() and running.ready("web"))

    healthy, early = _get(port, "/healthz"), _get(port, "/readyz")
    gate.touch()
    running.until_ready()
    eventually(lambda: _get(port, "/readyz").status_code == 200)

    assert healthy.status_code == 200
    assert early.status_code == 503
    assert "text: starting" in early.json()["missing"]
    assert _get(port, "/readyz").json() == {"ready": True}
    assert _get(port, "/docs").status_code == 404


@pytest.fixture(scope="module")
def any_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    """One supervisor for the tests that leave it as it was."""
    running = Supervised(tmp_path_factory.mktemp("any") / "data")
    yield running.until_ready()
    running.end()


def _get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10, trust_env=False)


def _when(what: str, log: str) -> float:
    found = re.search(rf"{what} at ([\d.]+)", log)
    assert found, log
    return float(found[1])
