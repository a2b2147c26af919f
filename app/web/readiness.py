"""What is missing before everything on this machine can do its work, asked of those who know.

The supervisor knows its processes, the record and the broker answer for themselves, and this machine's listener says in
the record that it has a connection to the platform. They are asked in threads, all at once.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app import broker, keys
from app.control import NotRunning, ask
from app.errors import BadSetting, BrokerUnavailable, StoreUnavailable
from app.machine import machine_name
from app.redis import Store
from app.room import Shortage, shortages
from app.settings import Settings

FRESH_S: Final = 1.0  # load balancers and tests poll; everybody is asked at most once in this time
_LIMIT_S = 2.0
_PATIENCE_S = 1.0


class Readiness:
    """What is missing on this machine, as it was at most a second ago."""

    def __init__(self, settings: Settings) -> None:
        record_url, broker_url = settings.redis_url.get_secret_value(), settings.broker_url.get_secret_value()
        self._probes: dict[str, Callable[[], Any]] = {
            "supervisor": lambda: processes(settings.data_dir),
            "record": lambda: connected(record_url, machine_name(settings.data_dir)),
            "broker": lambda: broker_answers(broker_url),
            "room": lambda: shortages(settings, patience_s=_PATIENCE_S),
        }
        self.full: list[str] = []  # when it was asked last: what people are told to come back for
        self._asked: dict[str, asyncio.Task[Any]] = {}
        self._asked_at = float("-inf")
        self._missing: list[str] = []
        self._asking = asyncio.Lock()

    async def missing(self) -> list[str]:
        """One line for each thing that is missing, within about two seconds; empty when all can do their work."""
        async with self._asking:
            if time.monotonic() - self._asked_at > FRESH_S:
                answers = await self._answers()
                self._missing = missing_of(**answers)
                self.full = [one.line() for one in answers["room"] or [] if not one.stops]
                self._asked_at = time.monotonic()
            return self._missing

    async def _answers(self) -> dict[str, Any]:
        """The answer of each; None of one that is late. One that still hangs is not asked a second time."""
        hanging = {name: task for name, task in self._asked.items() if not task.done()}
        self._asked = hanging | {
            name: asyncio.create_task(asyncio.to_thread(probe))
            for name, probe in self._probes.items()
            if name not in hanging
        }
        done, _ = await asyncio.wait(self._asked.values(), timeout=_LIMIT_S)
        return {name: task.result() if task in done else None for name, task in self._asked.items()}


def missing_of(
    *,
    supervisor: dict[str, Any] | None,
    record: bool | None,
    broker: bool | None,
    room: Sequence[Shortage] | None = (),
) -> list[str]:
    """Read the answers, each None if there was none: what `ps` says, and as the other three functions.

    A process that drains is not missing: its place is closed. At the limit of waiting messages nothing is missing:
    each further one is answered, by a notice.
    """
    lines = ["supervisor: does not answer"] if supervisor is None else _of_processes(supervisor)
    if record is None:
        lines.append("record: does not answer")
    if not broker:
        lines.append("broker: does not answer")
    lines += [one.line() for one in room or [] if one.stops]
    if record is False and _listens(supervisor):
        lines.append("listener: has had no connection to the platform for 10 s")
    return lines


def processes(data_dir: Path) -> dict[str, Any] | None:
    """The supervisor's answer to `ps`; None if there is none."""
    try:
        return ask(data_dir, {"do": "ps"})
    except NotRunning:
        return None


def connected(record_url: str, machine: str) -> bool | None:
    """Whether a machine's listener has had a connection to the platform of late; None if the record does not answer.

    A record with a silent node does not answer: some conversations stand still.
    """
    try:
        with closing(Store(record_url, deadline_s=0.0, timeout_s=_PATIENCE_S)) as store:
            name = keys.listening(machine)
            return None if store.silent() else bool(store.server_of(name).exists(name))
    except (redis.RedisError, StoreUnavailable, BadSetting, ValueError):
        return None


def broker_answers(url: str) -> bool:
    """Whether the broker takes a connection and, where there is PING, answers it."""
    try:
        if url.startswith("redis"):
            with _client(url) as client:
                return bool(client.ping())
        with broker.answering(broker.Connection(url), _PATIENCE_S):
            return True
    except (redis.RedisError, BrokerUnavailable, ValueError):
        return False


def _client(url: str) -> "redis.Redis":
    return redis.Redis.from_url(
        url, socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S, retry=Retry(NoBackoff(), 0)
    )


def _of_processes(answer: dict[str, Any]) -> list[str]:
    starting = [] if answer["started"] else ["supervisor: is still starting"]
    missing = (one for one in answer["processes"] if one["state"] not in ("ready", "draining"))
    return [*starting, *(f"{one['role']}: {one['state']}" for one in missing)]


def _listens(answer: dict[str, Any] | None) -> bool:
    """Whether a listener runs here; one that is starting is missing by that already."""
    return answer is not None and any(
        one["role"] == "listener" and one["state"] == "ready" for one in answer["processes"]
    )
