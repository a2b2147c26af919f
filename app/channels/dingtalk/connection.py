"""One open socket's life: answer SYSTEM frames, hand over robot frames, notice death, close.

Source: im-protocols, sections 2.3 to 2.6. How a socket is opened is opening.py, who reconnects is stream.py.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from app.channels.dingtalk.messages import (
    CARD_OK,
    CARD_TOPIC,
    EVENT_OK,
    FRAME_LIMIT_BYTES,
    ROBOT_OK,
    ROBOT_TOPIC,
    Frame,
    ack,
    decode,
)
from app.errors import MalformedFrame

log = structlog.get_logger()


class Clock(Protocol):
    """Two clocks: `wall` jumps when a machine sleeps or is set, `monotonic` does not."""

    def wall(self) -> float: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's own clocks, in seconds."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Deadlines and limits of one connection; the numbers are those of im-protocols 2.6."""

    open_s: float = 10.0
    ping_every_s: float = 20.0
    pong_within_s: float = 10.0
    misses: int = 2
    silence_s: float = 90.0
    check_every_s: float = 5.0
    clock_jump_s: float = 30.0
    drain_s: float = 10.0
    close_s: float = 2.0
    held_frames: int = 1024  # handed over and not yet answered; beyond it this socket is not read
    held_bytes: int = 16_000_000


class End(Enum):
    """Why a connection is over."""

    CLOSED = "the transport is gone"
    LEAVE = "open another one first, then leave this one"


@dataclass(slots=True, eq=False)
class Delivery:
    """One robot frame and the socket that brought it. Answer or release it, once."""

    frame: Frame
    connection: "Connection"
    arrived_at: float  # seconds since the epoch
    _done: bool = False

    async def ack(self, data: str = ROBOT_OK) -> None:
        """Acknowledge on the socket that delivered; nothing is sent if it has closed."""
        try:
            await self.connection.send(ack(self.frame, data))
        finally:
            self.release()

    def release(self) -> None:
        """Make room for another frame without an answer."""
        if not self._done:
            self._done = True
            self.connection.free(self.frame)


Receive = Callable[[Delivery], None]


class Pulse:
    """Notices a connection that answers pings but brings nothing any more.

    Armed by two SYSTEM heartbeats only: a platform that sends none is never suspected (2.6).
    """

    def __init__(self, silence_s: float) -> None:
        self._least_s = silence_s
        self._last_beat: float | None = None
        self._interval_s: float | None = None
        self._last_frame = 0.0

    def frame(self, now: float) -> None:
        self._last_frame = now

    def beat(self, now: float) -> None:
        if self._last_beat is not None:
            self._interval_s = max(self._interval_s or 0.0, now - self._last_beat)
        self._last_beat = now

    def silent(self, now: float) -> bool:
        if self._interval_s is None:
            return False
        return now - self._last_frame > max(self._least_s, 3 * self._interval_s)


class Connection:
    """One open socket. `wait` says when it is over; `retire` or `close` end it."""

    def __init__(self, socket: ClientConnection, receive: Receive, timing: Timing, clock: Clock) -> None:
        self.since = clock.wall()
        self.last_frame_at: float | None = None
        self.last_message_at: float | None = None
        self._socket = socket
        self._receive = receive
        self._timing = timing
        self._clock = clock
        self._pulse = Pulse(timing.silence_s)
        self._held_frames = self._held_bytes = 0
        self._closing = False
        self._has_room, self._idle = asyncio.Event(), asyncio.Event()
        self._has_room.set()
        self._idle.set()
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(part) for part in (self._read(), self._ping(), self._watch())]
        for task in self._tasks:
            task.add_done_callback(self._report_bug)

    @property
    def eligible(self) -> bool:
        """Whether the platform pushes here, as far as we know: it has not said goodbye, and the socket is open."""
        return not self._end.done()

    async def wait(self) -> End:
        """Wait until this connection must be replaced. Raises what a bug of ours raised in it."""
        return await asyncio.shield(self._end)

    async def retire(self) -> None:
        """Wait for the answers that are still owed on this socket, within a bound, then close it."""
        reader = self._tasks[0]
        drained = asyncio.create_task(self._idle.wait())
        await asyncio.wait({reader, drained}, timeout=self._timing.drain_s, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        await self.close()

    async def close(self) -> None:
        """Close with 1000 and wait until the socket is closed. Safe to call twice.

        It is read to its end: what the platform pushed before it heard of the close is handed over. That can be stored
        and not acknowledged, so nothing depends on whether the platform delivers it again.
        """
        self._closing = True
        reader, *others = self._tasks
        await _cancelled(*others)
        with suppress(TimeoutError, OSError):
            await asyncio.wait_for(self._socket.close(1000), 2 * self._timing.close_s)
        self._socket.transport.abort()
        if self._has_room.is_set():
            await asyncio.wait({reader}, timeout=self._timing.close_s)
        await _cancelled(reader)
        self._finish(End.CLOSED)

    async def send(self, text: str) -> None:
        """Write one upstream frame; silently nothing if the socket has closed."""
        if self._closing:  # the library would wait for the end of the socket, and the reader with it
            return
        with suppress(ConnectionClosed):
            await self._socket.send(text)

    def free(self, frame: Frame) -> None:
        """One handed-over frame is answered or given up."""
        self._held_frames -= 1
        self._held_bytes -= frame.size_bytes
        self._has_room.set()
        if not self._held_frames:
            self._idle.set()

    async def _read(self) -> None:
        try:
            while True:
                await self._take(await self._socket.recv(decode=False))
                if self._full():
                    await self._wait_for_room()
        except ConnectionClosed as exc:
            log.info("connection ended", code=exc.rcvd.code if exc.rcvd else None)
            self._finish(End.CLOSED)

    def _full(self) -> bool:
        return self._held_frames >= self._timing.held_frames or self._held_bytes >= self._timing.held_bytes

    async def _wait_for_room(self) -> None:
        self._has_room.clear()
        await self._has_room.wait()

    async def _take(self, raw: bytes) -> None:
        self.last_frame_at = self._clock.wall()
        self._pulse.frame(self._clock.monotonic())
        try:
            frame = decode(raw)
        except MalformedFrame as exc:
            log.warning("frame refused", reason=str(exc), size_bytes=len(raw))
            return
        if len(raw) > FRAME_LIMIT_BYTES:
            log.warning("frame too large: its content is left out", delivery=frame.id[:100], size_bytes=len(raw))
        if frame.type == "CALLBACK" and frame.topic == ROBOT_TOPIC:
            self._hand_over(frame)
        elif frame.type == "SYSTEM":
            await self._answer_system(frame)
        else:
            await answer_other(frame, self.send)

    def _hand_over(self, frame: Frame) -> None:
        self.last_message_at = self.last_frame_at
        self._held_frames += 1
        self._held_bytes += frame.size_bytes
        self._idle.clear()
        self._receive(Delivery(frame, self, self._clock.wall()))

    async def _answer_system(self, frame: Frame) -> None:
        if frame.topic in ("ping", "KEEPALIVE"):
            self._pulse.beat(self._clock.monotonic())
        if frame.topic in ("ping", "disconnect"):
            await self.send(ack(frame, frame.data or "{}"))
        if frame.topic == "disconnect":
            log.info("the platform asks for another connection")
            self._finish(End.LEAVE)

    async def _ping(self) -> None:
        """The transport's check: a ping with a deadline of its own, since the call itself can hang (2.6)."""
        missed = 0
        while missed < self._timing.misses:
            await asyncio.sleep(self._timing.ping_every_s)
            missed = 0 if await self._pong() else missed + 1
        log.warning("no pong: the connection is dead", misses=missed)
        self._socket.transport.abort()
        self._finish(End.CLOSED)

    async def _pong(self) -> bool:
        frame_before = self.last_frame_at
        try:
            async with asyncio.timeout(self._timing.pong_within_s):
                await (await self._socket.ping())
        except (TimeoutError, ConnectionClosed):
            # While we do not read, pongs lie unread too; and whoever brings frames is not dead.
            return not self._has_room.is_set() or self.last_frame_at != frame_before
        return True

    async def _watch(self) -> None:
        """The application's check: silence after heartbeats, or a clock that jumped while the machine slept."""
        apart = self._clock.wall() - self._clock.monotonic()
        while True:
            await asyncio.sleep(self._timing.check_every_s)
            now_apart = self._clock.wall() - self._clock.monotonic()
            if abs(now_apart - apart) > self._timing.clock_jump_s:
                self._suspect("the clock jumped")
            elif self._has_room.is_set() and self._pulse.silent(self._clock.monotonic()):
                self._suspect("heartbeats stopped")
            apart = now_apart

    def _suspect(self, reason: str) -> None:
        if not self._end.done():
            log.warning("connection is suspect: another is opened", reason=reason)
        self._finish(End.LEAVE)

    def _finish(self, end: End) -> None:
        if not self._end.done():
            self._end.set_result(end)

    def _report_bug(self, task: asyncio.Task[None]) -> None:
        """An error in a part of ours must reach the owner, not end in silence."""
        if task.cancelled() or not (error := task.exception()):
            return
        log.error("a part of the connection broke", exc_info=error)
        if not self._end.done():
            self._end.set_exception(error)


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def answer_other(frame: Frame, send: Callable[[str], Awaitable[None]]) -> None:
    """Acknowledge what is neither a robot message nor a SYSTEM frame: it means nothing to us yet."""
    if frame.type == "EVENT":
        await send(ack(frame, EVENT_OK))
    elif frame.type == "CALLBACK" and frame.topic == CARD_TOPIC:
        await send(ack(frame, CARD_OK))
    else:
        log.warning("frame of an unknown topic")
        await send(ack(frame, ROBOT_OK, 404))
