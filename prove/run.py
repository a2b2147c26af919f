"""`switchyard prove`: people talk to a whole installation while its processes are killed; then the log is judged."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.control import ask
from app.errors import Permanent
from app.process import environment_of_child
from prove.plan import Plan
from prove.verdict import Sent, Verdict, judge
from sandbox.client import SandboxClient
from sandbox.process import Sandbox, running_sandbox

START_LIMIT_S = 120.0
BACK_LIMIT_S = 60.0
ANSWER_LIMIT_S = 90.0
POLL_S = 0.05
REDELIVER_AFTER_S = 2.0

Say = Callable[[str], None]


class RunFailed(Permanent):
    """The run could not be made, so it proves nothing."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill and how long the role was away. Seconds."""

    role: str
    pid: int
    ready_again_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """A run's end."""

    verdict: Verdict
    kills: list[Kill]
    seed: int

    def as_json(self) -> str:
        holds = self.verdict.holds()
        return json.dumps(
            {"holds": holds, "seed": self.seed, **asdict(self.verdict), "kills": list(map(asdict, self.kills))}
        )


def make_run(plan: Plan, say: Say) -> Report:
    """Make one run.

    Raises:
        RunFailed: it could not be started, or a role did not come back.
    """
    with (
        tempfile.TemporaryDirectory(prefix="switchyard-prove-") as folder,
        running_sandbox() as sandbox,
        installation(Path(folder), sandbox, plan.environment()) as data_dir,
        SandboxClient(sandbox.url) as client,
    ):
        say(f"ready; {plan.people} people say {plan.messages_each} things each")
        client.fault("redeliver_unacked", after_s=REDELIVER_AFTER_S)
        sent, kills = _converse(plan, client, data_dir, say)
        _wait_for_answers(sent, client, say)
        return Report(judge(sent, client.log()), kills, plan.seed)


@contextmanager
def installation(folder: Path, sandbox: Sandbox, settings: dict[str, str]) -> Iterator[Path]:
    """A `switchyard up` of its own, ready; yields its data folder. Ended by SIGTERM."""
    data_dir = folder / "data"
    own = {"SWITCHYARD_DATA_DIR": str(data_dir), "SWITCHYARD_WEB_PORT": str(free_port()), **sandbox.environment()}
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "up"],
            env=environment_of_child({**own, **settings}),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            _until_ready(process, folder / "up.log")
            yield data_dir
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_ready(process: subprocess.Popen[str], log: Path) -> None:
    if process.stdout is None or process.stdout.readline().strip() != "ready":
        process.wait()
        raise RunFailed(f"switchyard up did not become ready:\n{log.read_text()[-2000:]}")


def _converse(plan: Plan, client: SandboxClient, data_dir: Path, say: Say) -> tuple[list[Sent], list[Kill]]:
    """Everybody talks; between two rounds somebody dies. At most a few messages of a person wait at a time."""
    chance = random.Random(plan.seed)
    sent: list[Sent] = []
    kills: list[Kill] = []
    victims = list(plan.kills)
    chance.shuffle(victims)
    for number in range(plan.messages_each):
        sent += _say_all(plan, number, client)
        due = victims[: max(0, round((number + 1) * len(plan.kills) / plan.messages_each) - len(kills))]
        for role in due:
            victims.remove(role)
            kills.append(kill(role, data_dir, chance, say))
        _breathe(chance)
    return sent, kills


def _say_all(plan: Plan, number: int, client: SandboxClient) -> list[Sent]:
    marks = {f"person{index}": f"p{index}m{number}" for index in range(plan.people)}
    told = client.send_many(
        [
            {
                "text": f"#{mark}# says that things will go on",
                "conversation": f"cid-{person}=",
                "sender": person,
                "staff": person,
            }
            for person, mark in marks.items()
        ]
    )
    return [
        Sent(answer["msgId"], person, number, mark) for answer, (person, mark) in zip(told, marks.items(), strict=True)
    ]


def _breathe(chance: random.Random) -> None:
    time.sleep(chance.uniform(0.1, 0.5))


def kill(role: str, data_dir: Path, chance: random.Random, say: Say) -> Kill:
    """`kill -9` one process of a role, and wait until that role is whole again."""
    processes = _processes(data_dir, role)
    victim = chance.choice(processes)
    os.kill(victim["pid"], signal.SIGKILL)
    killed_at = time.monotonic()
    while not _whole_again(data_dir, role, victim["pid"], len(processes)):
        if time.monotonic() - killed_at > BACK_LIMIT_S:
            raise RunFailed(f"{role} did not come back within {BACK_LIMIT_S:.0f} s")
        time.sleep(POLL_S)
    away_s = time.monotonic() - killed_at
    say(f"killed {role} (pid {victim['pid']}); ready again after {away_s:.1f} s")
    return Kill(role, victim["pid"], round(away_s, 2))


def _processes(data_dir: Path, role: str) -> list[dict[str, Any]]:
    processes: list[dict[str, Any]] = ask(data_dir, {"do": "ps"})["processes"]
    return [one for one in processes if one["role"] == role]


def _whole_again(data_dir: Path, role: str, dead_pid: int, count: int) -> bool:
    now = _processes(data_dir, role)
    return [one["state"] for one in now if one["pid"] != dead_pid] == ["ready"] * count


def _wait_for_answers(sent: Sequence[Sent], client: SandboxClient, say: Say) -> None:
    """Until everything that was accepted is answered, or nothing comes any more."""
    deadline, seen = time.monotonic() + ANSWER_LIMIT_S, -1
    while time.monotonic() < deadline:
        verdict = judge(sent, client.log())
        if verdict.accepted == len(sent) and not verdict.lost and not verdict.left_typing:
            return
        if verdict.answered != seen:
            seen = verdict.answered
            say(f"answered {verdict.answered} of {len(sent)}")
        time.sleep(0.5)


def table(report: Report) -> str:
    """The verdict for people."""
    verdict = report.verdict
    rows = [("sent", verdict.sent), ("accepted", verdict.accepted), ("answered", verdict.answered)]
    rows += [(name.replace("_", " "), len(found)) for name, found in verdict.faults().items()]
    lines = [f"{name:<18}{count:>6}" for name, count in rows]
    lines += ["", f"{'killed':<18}{'ready again after':>18}"]
    lines += [f"{kill.role:<18}{kill.ready_again_s:>16.1f} s" for kill in report.kills]
    for name, found in verdict.faults().items():
        if found:
            lines.append(f"{name.replace('_', ' ')}: {', '.join(found[:10])}")
    lines += ["", "the promise holds" if verdict.holds() else "THE PROMISE IS BROKEN"]
    return "\n".join(lines)
