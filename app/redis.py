"""The record's connection: scripts by name, repeats within a deadline, foreign errors translated.

redis-py repeats by itself up to ten times by default; that is off. Repeats happen here and nowhere else, and every
script gives the same answer when the same caller repeats it.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from app.errors import StoreFull, StoreUnavailable

_Answer = TypeVar("_Answer")
Arg = str | bytes | int | float
_AGAIN = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError)
_REFUSALS = ("MISCONF", "LOADING", "READONLY", "NOREPLICAS", "CLUSTERDOWN")  # the first word of an answer
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_LUA = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script as the server gets it, and the name under which it keeps it."""

    text: str
    sha: str


@cache
def load_script(name: str) -> Script:
    """Read `lua/<name>.lua` with `lua/shared.lua` behind its first line, which must stay the first."""
    shebang, _, body = (_LUA / f"{name}.lua").read_text().partition("\n")
    text = f"{shebang}\n{(_LUA / 'shared.lua').read_text()}\n{body}"
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def load_all_scripts() -> None:
    """Read every script now: a process must not meet a newer one when the files are replaced under it."""
    for file in _LUA.glob("*.lua"):
        if file.stem != "shared":
            load_script(file.stem)


def _options(url: str, timeout_s: float, connections: int) -> dict[str, Any]:
    return {
        "url": url,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, 2.0),
        "socket_keepalive": True,
        "health_check_interval": 25,
        "max_connections": connections,
    }


class Store:
    """The record, for threads. `deadline_s`: how long a call is repeated while the server does not answer."""

    def __init__(self, url: str, *, deadline_s: float = 15.0, timeout_s: float = 5.0, connections: int = 1024) -> None:
        load_all_scripts()
        options = _options(url, timeout_s, connections)
        self.client = redis.Redis.from_url(**options, retry=Retry(NoBackoff(), 0))
        self._deadline_s = deadline_s

    def run(self, name: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Run a script, again and again until it answers.

        Raises:
            StoreUnavailable: it did not answer by the deadline; it may have run all the same.
            StoreFull: it refused, and that at once for want of memory. Only what makes the record grow is refused.
        """
        script = load_script(name)
        return self.repeat(lambda: self._evaluate(script, keys, args))

    def repeat(self, call: Callable[[], _Answer]) -> _Answer:
        """Call until the server answers, to the deadline. The call must be one that may be repeated."""
        end, pause = time.monotonic() + self._deadline_s, _FIRST_PAUSE_S
        while True:
            try:
                return call()
            except RedisError as exc:
                if not _may_pass(exc):
                    raise
                if time.monotonic() + pause > end:
                    raise _given_up(exc) from exc
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def pipelined(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Arg]]]) -> list[Any]:
        """One script for many keys in one round trip. Not repeated.

        Raises:
            StoreUnavailable: no answer; some may have run.
        """
        script = load_script(name)
        try:
            try:
                return self._pipeline(script, calls)
            except NoScriptError:
                self.client.script_load(script.text)
                return self._pipeline(script, calls)
        except RedisError as exc:
            raise StoreUnavailable(str(exc)) from exc

    def close(self) -> None:
        self.client.close()

    def _evaluate(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        try:
            try:
                return self.client.evalsha(script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return self.client.eval(script.text, len(keys), *keys, *args)
        except ResponseError as exc:
            raise _translated(exc) from exc

    def _pipeline(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Arg]]]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for keys, args in calls:
            pipeline.evalsha(script.sha, len(keys), *keys, *args)
        return list(pipeline.execute())


@dataclass(frozen=True, slots=True)
class _Call:
    """One script with its keys and arguments."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Arg]


@dataclass(slots=True, eq=False)
class _Batch:
    """Calls that travel together, and their answers in the same order: an exception where a call was refused."""

    calls: list[_Call]
    answers: asyncio.Task[list[Any]]


class AsyncStore:
    """The record, for one event loop.

    One round trip is under way at a time; the calls that come meanwhile share the next one. So a rush costs few writes
    here and few syncs of the server's disk, and a call that comes alone goes at once.
    """

    def __init__(self, url: str, *, deadline_s: float = 5.0, timeout_s: float = 5.0) -> None:
        load_all_scripts()
        options = _options(url, timeout_s, 64)
        self.client = redis.asyncio.Redis.from_url(**options, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))
        self._deadline_s = deadline_s
        self._travelling = asyncio.Lock()
        self._next: _Batch | None = None  # the one that can still be joined

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """As Store.run."""
        call = _Call(load_script(name), keys, args)
        return await self._repeat(lambda: self._evaluate(call))

    async def counts(self, names: Sequence[str]) -> list[int]:
        """The numbers under some names, 0 where there is none."""

        async def read() -> list[int]:
            pipeline = self.client.pipeline(transaction=False)
            for name in names:
                pipeline.get(name)
            return [int(count or 0) for count in await pipeline.execute()]

        return await self._repeat(read)

    async def _repeat(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        end, pause = time.monotonic() + self._deadline_s, _FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except RedisError as exc:
                if not _may_pass(exc):
                    raise
                if time.monotonic() + pause > end:
                    raise _given_up(exc) from exc
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def close(self) -> None:
        await self.client.aclose()

    async def _evaluate(self, call: _Call) -> Any:
        """Send one call with all others that wait, and take its own answer."""
        if (batch := self._next) is None:
            calls: list[_Call] = []
            batch = self._next = _Batch(calls, asyncio.create_task(self._travel(calls)))
        place = len(batch.calls)
        batch.calls.append(call)
        answer = (await asyncio.shield(batch.answers))[place]  # who leaves takes nobody along
        if isinstance(answer, ResponseError):
            raise _translated(answer) from answer
        if isinstance(answer, RedisError):  # such as a server that is still loading
            raise answer
        return answer

    async def _travel(self, calls: list[_Call]) -> list[Any]:
        async with self._travelling:
            self._next = None
            answers = await self._pipeline(calls)
            unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            for text in {calls[place].script.text for place in unknown}:
                await self.client.script_load(text)
            again = await self._pipeline([calls[place] for place in unknown]) if unknown else []
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
            return answers

    async def _pipeline(self, calls: Sequence[_Call]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
        return list(await pipeline.execute(raise_on_error=False))


def _may_pass(exc: RedisError) -> bool:
    """Whether the server may do it later. A disk that it cannot write is no bug of ours: it says so even to a PING."""
    return isinstance(exc, _AGAIN) or str(exc).startswith(_REFUSALS)


def _translated(exc: ResponseError) -> Exception:
    """A full memory is told at once: nothing that is waited for here makes room."""
    return StoreFull("memory", "the record's memory is full") if isinstance(exc, OutOfMemoryError) else exc


def _given_up(exc: RedisError) -> StoreUnavailable:
    """The server did not answer in time, or it cannot write its disk."""
    return StoreFull("disk", str(exc)) if str(exc).startswith("MISCONF") else StoreUnavailable(str(exc))
