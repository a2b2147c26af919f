"""The one owner of one logical connection: it alone reconnects, so no socket is ever leaked.

Source: im-protocols, section 2.6, "Reconnect procedure".
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import structlog

from app.channels.dingtalk.connection import Clock, Connection, End, Receive, SystemClock, Timing
from app.channels.dingtalk.opening import Credentials, open_connection
from app.errors import PlatformBusy, PlatformRefused

log = structlog.get_logger()

RETRY_AFTER_LIMIT_S = 300.0  # no answer of the platform's silences us for longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """How long to wait before another attempt, in seconds."""

    first_s: float = 1.0
    most_s: float = 60.0
    jitter: float = 0.2
    refused_s: float = 60.0  # wrong credentials do not heal by asking often
    healthy_s: float = 60.0  # a connection that lived so long starts the delays anew
    short_s: float = 2.0  # of two in a row that are told to leave sooner than this, the second waits


class BackOff:
    """Delays that double from the first to the most, with jitter."""

    def __init__(self, delays: Delays, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._delays = delays
        self._uniform = uniform
        self._attempts = 0

    def next(self) -> float:
        delay = min(self._delays.most_s, self._delays.first_s * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        return delay * self._uniform(1 - self._delays.jitter, 1 + self._delays.jitter)

    def reset(self) -> None:
        self._attempts = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What an operator wants to know of a connection; times are seconds since the epoch."""

    connected_since: float | None
    last_frame_at: float | None
    last_message_at: float | None
    reconnects: int


class Stream:
    """Keeps one connection up: `run` it as a task, cancel the task, then `close`."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        credentials: Credentials,
        receive: Receive,
        *,
        timing: Timing | None = None,
        delays: Delays | None = None,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        connected: Callable[[], None] = lambda: None,
        first_life_s: float | None = None,
    ) -> None:
        """`first_life_s`: leave the first connection of one's own accord after so long, when the next is up.

        Connections that were opened together would be too old together: the platform would tell all of them to go in
        the same moment, and nothing would be connected while the next ones are opened.
        """
        self._client = client
        self._credentials = credentials
        self._receive = receive
        self._timing = timing or Timing()
        self._delays = delays or Delays()
        self._clock = clock or SystemClock()
        self._back_off = BackOff(self._delays, uniform)
        self._connected = connected
        self._current: Connection | None = None
        self._retiring: dict[asyncio.Task[None], Connection] = {}
        self._first_life_s = first_life_s
        self._opened = 0
        self._short_before = False  # whether the connection before this one was short-lived
        self._last_frame_at: float | None = None
        self._last_message_at: float | None = None

    def state(self) -> State:
        self._remember(self._current)
        return State(
            connected_since=self._current.since if self._current and self._current.eligible else None,
            last_frame_at=self._last_frame_at,
            last_message_at=self._last_message_at,
            reconnects=max(0, self._opened - 1),
        )

    async def run(self) -> None:
        """Connect and stay connected, until cancelled."""
        while True:
            fresh = await self._connect()
            left, self._current = self._current, fresh
            if left:  # only now: the new socket is up
                self._retire(left)
            opened_at = self._clock.monotonic()
            end = await self._life(fresh)
            if end is End.CLOSED:
                self._remember(fresh)
                await fresh.close()
                self._current = None
            await self._pause(end, self._clock.monotonic() - opened_at)

    async def _life(self, fresh: Connection) -> End:
        """Wait until a connection must be replaced, or until the first one has lived long enough."""
        limit_s = self._first_life_s if self._opened == 1 else None
        try:
            return await asyncio.wait_for(fresh.wait(), limit_s)
        except TimeoutError:
            log.info("a connection is left of our own accord: its age is that of the others")
            return End.LEAVE

    async def close(self) -> None:
        """Close every socket that is left, with 1000, and wait for it."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        left = [*self._retiring.values(), *([self._current] if self._current else [])]
        self._remember(self._current)
        self._current = None
        self._retiring.clear()
        await asyncio.gather(*(connection.close() for connection in left))

    async def _connect(self) -> Connection:
        while True:
            try:
                connection = await open_connection(
                    self._client, self._credentials, self._receive, self._timing, self._clock
                )
            except PlatformRefused as exc:
                delay = max(self._delays.refused_s, self._back_off.next())
                log.error("no connection: check the credentials or configuration", code=exc.code, retry_in_s=delay)
            except PlatformBusy as exc:
                delay = max(self._back_off.next(), min(exc.retry_after_s, RETRY_AFTER_LIMIT_S))
                log.warning("no connection", reason=str(exc), retry_in_s=round(delay, 2))
            else:
                self._opened += 1
                log.info("connected", reconnects=self._opened - 1)
                self._connected()
                return connection
            await asyncio.sleep(delay)

    async def _pause(self, end: End, lived_s: float) -> None:
        if lived_s >= self._delays.healthy_s:
            self._back_off.reset()
        short, short_before = lived_s < self._delays.short_s, self._short_before
        self._short_before = short
        if end is End.CLOSED or (short and short_before):  # one early goodbye is a deployment, a second one a loop
            await asyncio.sleep(self._back_off.next())

    def _retire(self, connection: Connection) -> None:
        self._remember(connection)
        task = asyncio.create_task(connection.retire())
        self._retiring[task] = connection
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._retiring.pop(task, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("a connection was left badly", exc_info=error)

    def _remember(self, connection: Connection | None) -> None:
        if connection:
            self._last_frame_at = connection.last_frame_at or self._last_frame_at
            self._last_message_at = connection.last_message_at or self._last_message_at
