"""Streams and listeners for tests: short times, an accept that remembers, and waiting with a deadline."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app.channels.dingtalk.connection import Timing
from app.channels.dingtalk.opening import Credentials
from app.channels.dingtalk.stream import Delays, Stream
from app.listener import Listener, keep
from app.message import Message
from sandbox.process import Sandbox

QUICK = Delays(first_s=0.02, most_s=0.1, refused_s=0.1, short_s=0.0)


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Poll until a condition holds. Calls to the sandbox run in a thread, so that the loop goes on."""
    ends_at = time.monotonic() + within_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < ends_at, "not in time"
        await asyncio.sleep(0.02)


class Store:
    """An accept that remembers what it stored, in order; fails or waits as it is told."""

    def __init__(self) -> None:
        self.stored: list[Message] = []
        self.failures: list[Exception] = []
        self.open = asyncio.Event()
        self.open.set()
        self.running = self.most = self.tries = 0

    async def accept(self, message: Message) -> None:
        self.tries += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
            if self.failures:
                raise self.failures.pop(0)
            self.stored.append(message)
        finally:
            self.running -= 1

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.stored]


class Jumping:
    """A clock whose wall time a test can move."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def wall(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def listening(
    sandbox: Sandbox,
    store: Store,
    *,
    count: int = 1,
    timing: Timing | None = None,
    delays: Delays = QUICK,
    secret: str = "",
    clock: Any = None,
    first_life_s: float | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Listener, list[Stream]]]:
    """A listener with `count` streams on the sandbox, all of them connected; stopped afterwards.

    All but the first of them leave their first connection after `first_life_s`.
    """
    listener = Listener(store.accept, dedupe_s=86_400, delays=QUICK, **options)
    known = Credentials(openapi=sandbox.url, client_id=sandbox.client_id, client_secret=secret or sandbox.client_secret)
    stop = asyncio.Event()
    async with httpx.AsyncClient(trust_env=False) as client:
        streams = [
            Stream(
                client,
                known,
                listener.receive,
                timing=timing or Timing(close_s=0.5),
                delays=delays,
                clock=clock,
                first_life_s=first_life_s if number else None,
            )
            for number in range(count)
        ]
        running = asyncio.create_task(keep(listener, streams, stop))
        try:
            if not secret:
                await until(lambda: all(stream.state().connected_since for stream in streams))
            yield listener, streams
        finally:
            stop.set()
            store.open.set()
            await asyncio.wait_for(running, 15)
