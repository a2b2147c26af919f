"""The record for one event loop: calls to a server that come together share a round trip."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from app.address import Place, read_address
from app.errors import BadSetting, StoreFull
from app.nodes import (
    AGAIN,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    NO_CLUSTER,
    SILENT,
    WAIT_SHARE,
    Nodes,
    connection_options,
    given_up,
    read,
    translated,
)
from app.replication import Replication
from app.scripts import Arg, Call, load_all_scripts, load_script

_Answer = TypeVar("_Answer")
_COUNT_S = 0.25  # a count is a courtesy: so long it waits for a node, and then leaves that node out for a while
_LEAVE_OUT_S = 5.0


@dataclass(slots=True, eq=False)
class _Batch:
    """Calls that travel together, and their answers in the same order: an exception where a call was refused."""

    calls: list[Call]
    answers: asyncio.Task[list[Any]]


@dataclass(slots=True, eq=False)
class _Lane:
    """The way to one server: one round trip is under way at a time."""

    travelling: asyncio.Lock = field(default_factory=asyncio.Lock)
    next: _Batch | None = None  # the one that can still be joined


class AsyncStore:
    """The record, for one event loop.

    One round trip to a server is under way at a time; the calls that come meanwhile share the next one. So a rush costs
    few writes here and few syncs of the server's disk, and a call that comes alone goes at once.
    """

    def __init__(self, url: str, *, deadline_s: float = 5.0, timeout_s: float = 5.0, replicas: int = 0) -> None:
        load_all_scripts()
        self._options = connection_options(timeout_s, 64)
        self._nodes: Nodes[redis.asyncio.Redis] = Nodes(read_address(url), self._open)
        self._replication = Replication(replicas, round(timeout_s * 1000 * WAIT_SHARE))
        self._deadline_s = deadline_s
        self._lanes: dict[Place | None, _Lane] = {}
        self._looking = asyncio.Lock()

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """As Store.run."""
        call = Call(load_script(name), keys, args)
        return await self._repeat(lambda: self._evaluate(call))

    async def counts(self, names: Sequence[str]) -> list[int | None]:
        """The numbers under some names, 0 where there is none; None if a node of a cluster does not say it soon."""
        if not self._nodes.is_cluster:
            return list(await self._repeat(lambda: self._read_counts(None, names)))
        batches: dict[Place | None, list[int]] = {}
        for number, name in enumerate(names):
            place = await self._repeat(lambda name=name: self._place_of(name))  # type: ignore[misc]
            if not self._nodes.failed_within(place, _LEAVE_OUT_S):
                batches.setdefault(place, []).append(number)
        tasks = {
            asyncio.create_task(self._read_counts(place, [names[number] for number in numbers])): (place, numbers)
            for place, numbers in batches.items()
        }
        counts: list[int | None] = [None] * len(names)
        if tasks:
            await asyncio.wait(tasks, timeout=_COUNT_S)
        for task, (place, numbers) in tasks.items():
            for number, count in zip(numbers, await self._counted(task, place) or (), strict=False):
                counts[number] = count
        return counts

    async def close(self) -> None:
        for client in self._nodes.clients():
            await client.aclose()

    def _open(self, url: str) -> "redis.asyncio.Redis":
        return redis.asyncio.Redis.from_url(url, **self._options, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))

    async def _read_counts(self, place: Place | None, names: Sequence[str]) -> list[int]:
        pipeline = self._nodes.client(place).pipeline(transaction=False)
        for name in names:
            pipeline.get(name)
        return [int(count or 0) for count in await pipeline.execute()]

    async def _counted(self, task: asyncio.Task[list[int]], place: Place | None) -> list[int] | None:
        """What a task has counted; None, noted, if it is late or failed."""
        if not task.done():
            task.cancel()
            self._nodes.note(place, RedisConnectionError("late"))
        try:
            return await task
        except RedisError as exc:
            self._nodes.note(place, exc)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
        return None

    async def _repeat(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        end, pause = time.monotonic() + self._deadline_s, FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except (RedisError, RedisClusterException) as exc:
                found = translated(exc)
                if isinstance(found, StoreFull):
                    raise found from exc
                if not isinstance(found, AGAIN):
                    raise
                if time.monotonic() + pause > end:
                    raise given_up(found) from exc
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _place_of(self, key: str) -> Place | None:
        if self._nodes.looks(key):
            await self._look()
        return self._nodes.place_of(key)

    async def _look(self) -> None:
        """As Store._look."""
        came_at = time.monotonic()
        async with self._looking:
            if self._nodes.learned_at > came_at:
                return
            failure: Exception | None = None
            for place in self._nodes.to_ask():
                client = self._nodes.client(place)
                try:
                    answer = await client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
                except SILENT as exc:
                    self._nodes.note(place, exc)
                    failure = exc
                except ResponseError as exc:
                    raise BadSetting(NO_CLUSTER) from exc
                else:
                    self._nodes.learn(place, answer)
                    return
            raise RedisConnectionError("no node of the cluster answers") from failure

    async def _evaluate(self, call: Call) -> Any:
        """Send one call with all others that wait for the same server, and take its own answer."""
        place = await self._place_of(call.keys[0])
        lane = self._lanes.setdefault(place, _Lane())
        if (batch := lane.next) is None:
            calls: list[Call] = []
            batch = lane.next = _Batch(calls, asyncio.create_task(self._travel(place, lane, calls)))
        number = len(batch.calls)
        batch.calls.append(call)
        return read((await asyncio.shield(batch.answers))[number])  # who leaves takes nobody along

    async def _travel(self, place: Place | None, lane: _Lane, calls: list[Call]) -> list[Any]:
        async with lane.travelling:
            lane.next = None
            try:
                answers = await self._send(self._nodes.client(place), calls)
            except RedisError as exc:
                self._nodes.note(place, exc)
                raise
            for answer in answers:
                self._nodes.note(place, answer)
            return answers

    async def _send(self, client: "redis.asyncio.Redis", calls: list[Call]) -> list[Any]:
        answers = await self._pipeline(client, calls)
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        for text in {calls[number].script.text for number in unknown}:
            await client.script_load(text)
        again = await self._pipeline(client, [calls[number] for number in unknown]) if unknown else []
        for number, answer in zip(unknown, again, strict=True):
            answers[number] = answer
        return answers

    async def _pipeline(self, client: "redis.asyncio.Redis", calls: Sequence[Call]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for command in self._replication.commands(calls):
            pipeline.execute_command(*command)
        return self._replication.settled(calls, await pipeline.execute(raise_on_error=False))
