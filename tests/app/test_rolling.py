"""A rolling restart: one process at a time, in the order in which an upgrade needs it. Servers real, workers toys."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.control import RESTART_DONE, RESTART_UNDER_WAY, ask
from app.errors import BadSetting
from app.roles import roles
from app.rolling import ORDER, roles_to_restart, roll
from app.settings import Settings
from tests.app.channels.dingtalk.streams import until
from tests.app.supervised import Supervised, eventually, switchyard
from tests.app.test_child import a_child

Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Supervised] = []

    def start_one(*arguments: str, **settings: str) -> Supervised:
        started.append(Supervised(tmp_path / "data", *arguments, settings=settings))
        return started[-1]

    yield start_one
    for one in started:
        one.end()


def restart(running: Supervised, *roles: str) -> None:
    ask(running.data_dir, {"do": "restart", "roles": list(roles)})


def how_far(running: Supervised) -> str:
    return str(ask(running.data_dir, {"do": "ps"})["restart"])


def by_role(running: Supervised) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in running.ps():
        found.setdefault(one["role"], []).append(one["pid"])
    return found


def test_every_process_but_the_servers_is_replaced_and_one_at_a_time(start: Start) -> None:
    """Whoever looks sees at most one process away at any moment, and never no listener."""
    running = start(SWITCHYARD_POOLS="text=2,image=1").until_ready()
    before, away, listening = by_role(running), [], []

    restart(running)
    while how_far(running) == RESTART_UNDER_WAY:
        seen = running.ps()
        away.append(sum(one["state"] != "ready" for one in seen if one["role"] != "listener"))
        listening.append(sum(one["state"] in ("ready", "draining") for one in seen if one["role"] == "listener"))
    after = by_role(running)

    assert how_far(running) == RESTART_DONE
    assert max(away) == 1
    assert min(listening) >= 1
    assert {role: len(pids) for role, pids in after.items()} == {role: len(pids) for role, pids in before.items()}
    assert {role for role in before if set(before[role]) & set(after[role])} == {"redis", "broker"}


def test_readers_go_before_those_who_write_for_them() -> None:
    """A reply of a new version never waits for an old sender, nor a message for an old worker."""
    known = [spec.role for spec in roles(Settings(redis_url="redis://x", broker_url="redis://x"))]

    order = roles_to_restart([], known)

    assert order == ["sender", "default", "image", "text", "listener", "web"]
    assert set(ORDER) == {*known, "redis", "broker"}


def test_what_is_named_is_replaced_and_nothing_else(start: Start) -> None:
    running = start().until_ready()
    before = by_role(running)

    restart(running, "default", "redis")
    eventually(lambda: how_far(running) == RESTART_DONE, within_s=60.0)

    after = by_role(running)
    assert {role for role in before if before[role] != after[role]} == {"default", "redis"}


def test_a_restart_stops_at_a_process_that_goes_away_and_the_others_stay(start: Start, tmp_path: Path) -> None:
    """While a new release does not come up, the old one keeps on answering."""
    gate = tmp_path / "gate"
    gate.touch()
    running = start(f"sender:gate={gate}").until_ready()
    before = by_role(running)

    gate.unlink()
    restart(running)
    eventually(lambda: by_role(running)["sender"] not in (before["sender"], [None]))
    with pytest.raises(BadSetting, match="one is under way"):
        restart(running)

    assert how_far(running) == RESTART_UNDER_WAY
    assert {role for role, pids in by_role(running).items() if pids != before[role]} == {"sender"}
    gate.touch()
    eventually(lambda: how_far(running) == RESTART_DONE, within_s=60.0)


def test_scaling_down_while_it_goes_on_leaves_the_right_number(start: Start) -> None:
    """A process that is being replaced has its place already: no other is opened for it."""
    running = start("text:stubborn", SWITCHYARD_POOLS="text=2", SWITCHYARD_DRAIN_S="5").until_ready()

    restart(running, "text")
    eventually(lambda: any(one["state"] == "draining" for one in running.ps("text")))
    ask(running.data_dir, {"do": "scale", "pools": {"text": 1}})
    eventually(lambda: how_far(running) == RESTART_DONE, within_s=60.0)

    eventually(lambda: len(running.ready("text")) == 1 == len(running.ps("text")))


def test_it_can_be_stopped_in_the_middle(start: Start) -> None:
    running = start("text:stubborn", SWITCHYARD_DRAIN_S="6").until_ready()

    restart(running, "text")
    eventually(lambda: any(one["state"] == "draining" for one in running.ps("text")))

    assert running.stop() == 0


@pytest.mark.parametrize(("named", "says"), [(["send"], "send does not run here"), ("text", "a request is")])
def test_what_does_not_run_here_is_refused(start: Start, named: Any, says: str) -> None:
    running = start().until_ready()

    with pytest.raises(BadSetting, match=says):
        ask(running.data_dir, {"do": "restart", "roles": named})


def test_the_command_waits_when_asked_to_and_names_what_runs(start: Start, tmp_path: Path) -> None:
    running = start().until_ready()
    folder = {"SWITCHYARD_DATA_DIR": str(running.data_dir)}
    first = running.pid("text")

    done = switchyard(tmp_path, "restart", "text", "--wait", **folder)
    wrong = switchyard(tmp_path, "restart", "nobody", **folder)

    assert (done.returncode, wrong.returncode) == (0, 2)
    assert running.ready("text") not in ([], [first])
    assert "listener" in wrong.stderr


def test_a_process_that_somebody_else_ended_takes_part(start: Start) -> None:
    running = start().until_ready()
    os.kill(running.pid("text"), signal.SIGTERM)

    restart(running, "text")

    eventually(lambda: how_far(running) == RESTART_DONE, within_s=60.0)
    assert len(running.ready("text")) == 1


async def impatient(condition: Callable[..., bool], *, within_s: float | None) -> None:
    """As the supervisor waits, but not for minutes."""
    deadline = asyncio.get_running_loop().time() + (20.0 if within_s is None else 1.0)
    while not condition() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)


async def test_a_release_that_does_not_come_up_costs_one_process_at_most(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    async with (
        a_child(tmp_path, f"gate={gate}", complain_again_s=600) as first,
        a_child(tmp_path, complain_again_s=600) as second,
    ):
        await until(lambda: first.state == second.state == "ready")
        kept = second.pid
        gate.unlink()

        ended = await roll(
            [first, second], until=impatient, beside=lambda _: second, is_there=lambda _: True, drain_s=5.0
        )

        assert ended.startswith("stopped at text-1")
        assert (second.pid, second.state) == (kept, "ready")


async def test_a_listener_that_does_not_come_up_costs_none(tmp_path: Path) -> None:
    """The old one goes on: it leaves when the next one is there, and not before."""
    async with (
        a_child(tmp_path, complain_again_s=600, overlaps=True) as old,
        a_child(tmp_path, f"gate={tmp_path / 'never'}", complain_again_s=600) as fresh,
    ):
        await until(lambda: old.state == "ready")
        kept = old.pid

        ended = await roll([old], until=impatient, beside=lambda _: fresh, is_there=lambda _: True, drain_s=5.0)

        assert ended.startswith("stopped at")
        assert (old.pid, old.state) == (kept, "ready")
        assert fresh.leaves
