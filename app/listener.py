"""The one loop: frame -> parse -> accept -> ack. A frame is acknowledged only after `accept` returned.

Source: design, section 2, promises 1 and 4; im-protocols, section 2.8.
"""

import asyncio
import random
import time
from bisect import insort
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import structlog

from app.channels.dingtalk.connection import Delivery
from app.channels.dingtalk.messages import body, parse
from app.channels.dingtalk.opening import Credentials
from app.channels.dingtalk.stream import BackOff, Delays, Stream
from app.crashpoints import crashpoint
from app.errors import MalformedFrame, StoreFull, StoreUnavailable
from app.message import Message
from app.settings import Settings

log = structlog.get_logger()

Accept = Callable[[Message], Awaitable[object]]
Tell = Callable[[], Awaitable[None]]
MAX_IN_ACCEPT = 256
MAX_IN_ACCEPT_ON_CLUSTER = 4096  # those of a silent node must leave room for the others'
FINISH_S = 5.0  # at the stop: what has been read is stored and acknowledged within this time, or left unacknowledged
STORE_DELAYS = Delays(first_s=0.05, most_s=2.0)
LAST_S = 1.0  # and so long for what came while the sockets were closed
TELL_EVERY_S = 2.0
APART_S = 120.0  # connections that were opened together are made to differ in age by this


@dataclass(slots=True)
class Counts:
    """What became of the frames of this process."""

    accepted: int = 0
    malformed: int = 0
    old: int = 0
    own: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    delivery: Delivery
    message: Message


def _sent_at(work: _Work) -> float:
    return work.message.sent_at


class Listener:
    """Stores what the connections bring, in the order of sending, and acknowledges what is stored.

    Give `receive` to every connection and `run` it as a task. One conversation's frames are accepted one after
    another whatever socket brought them; at most `max_in_accept` frames of all conversations are held here, the others
    wait unparsed and unacknowledged, bounded by their connections.
    """

    def __init__(
        self,
        accept: Accept,
        *,
        dedupe_s: float,
        robot: str = "",
        max_in_accept: int = MAX_IN_ACCEPT,
        delays: Delays = STORE_DELAYS,
        wall: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.counts = Counts()
        self._accept = accept
        self._dedupe_s = dedupe_s
        self._robot = robot
        self._delays = delays
        self._wall = wall
        self._uniform = uniform
        self._arrivals: asyncio.Queue[Delivery] = asyncio.Queue()
        self._room = asyncio.Semaphore(max_in_accept)
        self._lanes: dict[str, list[_Work]] = {}  # one a conversation, by time of sending, then arrival
        self._tasks: set[asyncio.Task[None]] = set()  # one a lane, and one a frame that is dropped
        self._unstored = 0  # frames that were refused and are tried again
        self._trouble: type[StoreUnavailable] | None = None  # ... and what was logged as the reason
        self._stopping = False

    @property
    def waiting(self) -> int:
        """Frames that were read and are neither stored nor dropped yet."""
        return self._arrivals.qsize() + sum(map(len, self._lanes.values()))

    def receive(self, delivery: Delivery) -> None:
        """Take a robot frame from a connection. Never waits."""
        if self._stopping:
            delivery.release()  # unacknowledged: another listener's, or a redelivery
        else:
            self._arrivals.put_nowait(delivery)

    async def run(self) -> None:
        """Accept what arrives, until cancelled."""
        while True:
            delivery = await self._arrivals.get()
            await self._room.acquire()
            message = self._read(delivery)
            if message is None:
                self._start(self._drop(delivery))
            else:
                self._line_up(_Work(delivery, message))

    async def settle(self, within_s: float = FINISH_S) -> None:
        """Wait until nothing waits, while more may come, or until the time is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrivals.join(), within_s)

    async def finish(self, within_s: float = FINISH_S) -> None:
        """Take nothing new, and store and acknowledge what has been read, within a bound."""
        self._stopping = True
        try:
            async with asyncio.timeout(within_s):
                await self._arrivals.join()
        except TimeoutError:
            log.warning("stopped before everything was stored", waiting=self.waiting)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _read(self, delivery: Delivery) -> Message | None:
        """The message of a frame; None, counted, if nobody can or need answer it."""
        try:
            message = parse(body(delivery.frame), arrived_at=delivery.arrived_at, robot=self._robot)
        except MalformedFrame as exc:
            self.counts.malformed += 1
            log.warning("frame dropped", reason=str(exc))
            return None
        except Exception:  # a bug in the parser must not end the process: the frame would come again and again
            self.counts.failed += 1
            log.exception("frame dropped by a bug")
            return None
        if message is None:
            self.counts.own += 1
        elif message.sent_at < self._wall() - self._dedupe_s:  # its id may be forgotten: it may have been answered
            self.counts.old += 1
            log.info("old frame dropped", message_id=message.id)
            return None
        return message

    def _line_up(self, work: _Work) -> None:
        conversation = work.message.conversation
        if (lane := self._lanes.get(conversation)) is not None:
            # Two sockets are read in bursts, so arrival may differ from sending; the head is being accepted already.
            insort(lane, work, lo=1, key=_sent_at)
            return
        self._lanes[conversation] = [work]
        self._start(self._serve(conversation))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drop(self, delivery: Delivery) -> None:
        """Acknowledge what nobody will answer: a redelivery would bring the same bytes.

        Its socket may be stuck with a full buffer, so nobody else waits for it.
        """
        try:
            await delivery.ack()
        finally:
            self._leave()

    async def _serve(self, conversation: str) -> None:
        """Accept one conversation's frames, one after another, until none is left."""
        lane = self._lanes[conversation]
        try:
            while lane:
                await self._store(lane[0])
                del lane[0]
                self._leave()
        finally:
            del self._lanes[conversation]

    async def _store(self, work: _Work) -> None:
        try:
            await self._until_stored(work.message)
        except MalformedFrame as exc:
            self.counts.malformed += 1
            log.warning("frame dropped", reason=str(exc))
        except Exception:  # a bug behind accept costs this frame, which stays unacknowledged, and no other
            self.counts.failed += 1
            log.exception("frame not stored", message_id=work.message.id)
            work.delivery.release()
            return
        crashpoint("accept/ack")
        await work.delivery.ack()

    async def _until_stored(self, message: Message) -> None:
        """Repeat accept until it answers. DingTalk may not redeliver, so an unstored frame is kept here."""
        try:
            await self._accept(message)
        except StoreUnavailable as exc:
            with self._keeping():
                self._note(exc)
                await self._try_again(message)
        self.counts.accepted += 1

    async def _try_again(self, message: Message) -> None:
        back_off = BackOff(self._delays, self._uniform)
        while True:
            await asyncio.sleep(back_off.next())
            try:
                await self._accept(message)
            except StoreUnavailable as exc:
                self._note(exc)
            else:
                return

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """A frame is kept while the block runs; the last one that is stored after all ends the outage."""
        self._unstored += 1
        try:
            yield
        finally:
            self._unstored -= 1
            self._trouble = self._trouble if self._unstored else None
        if not self._unstored:
            log.info("the store answers again")

    def _note(self, exc: StoreUnavailable) -> None:
        """Log an outage once, not once a frame and try."""
        if type(exc) is self._trouble:
            return
        self._trouble = type(exc)
        if isinstance(exc, StoreFull):
            log.error("the record is full: frames are kept and tried again", reason=str(exc))
        else:
            log.warning("the store does not answer: frames are kept and tried again", reason=str(exc))

    def _leave(self) -> None:
        self._room.release()
        self._arrivals.task_done()


async def run(
    settings: Settings, accept: Accept, ready: Callable[[], None], stop: asyncio.Event, *, tell: Tell | None = None
) -> None:
    """Hold the platform's connections until `stop`; `ready` is called when the first of them is up.

    `tell` is awaited before that, and again every two seconds while there is a connection.
    Raises what breaks the loop or a connection for good: a bug, and the process had better start anew.
    """
    listener = Listener(
        accept,
        dedupe_s=settings.dedupe_s,
        robot=settings.robot_code,
        max_in_accept=MAX_IN_ACCEPT_ON_CLUSTER if settings.record_is_cluster else MAX_IN_ACCEPT,
    )
    credentials = Credentials(
        openapi=settings.dingtalk_openapi_endpoint,
        client_id=settings.dingtalk_client_id,
        client_secret=settings.dingtalk_client_secret.get_secret_value(),
    )
    up = asyncio.Event()
    async with httpx.AsyncClient() as client:
        streams = [
            Stream(client, credentials, listener.receive, connected=up.set, first_life_s=number * APART_S or None)
            for number in range(settings.connections)
        ]
        await keep(listener, streams, stop, _once_up(streams, up, ready, tell or _nobody))


async def _once_up(streams: list[Stream], up: asyncio.Event, ready: Callable[[], None], tell: Tell) -> None:
    await up.wait()
    while not await _told(tell):  # noqa: ASYNC110 - a record that is down sets no event of ours
        await asyncio.sleep(STORE_DELAYS.first_s)
    ready()
    await tell_while_connected(streams, tell)


async def tell_while_connected(streams: list[Stream], tell: Tell, *, every_s: float = TELL_EVERY_S) -> None:
    """Await `tell` now and again while a stream is connected, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        if any(stream.state().connected_since for stream in streams):
            await _told(tell)


async def _told(tell: Tell) -> bool:
    """Whether it was told. A record that is down is logged where frames are kept, and told again soon."""
    try:
        await tell()
    except StoreUnavailable:
        return False
    return True


async def _nobody() -> None:
    """Tell nobody."""


async def keep(
    listener: Listener, streams: list[Stream], stop: asyncio.Event, *beside: Coroutine[Any, Any, None]
) -> None:
    """Run a listener, its streams and what else never ends until `stop`.

    Then acknowledge what was read, close every socket with 1000, and store what came before the platform heard of it.
    """
    storing = asyncio.create_task(listener.run())
    loops = [asyncio.create_task(loop) for loop in (*(stream.run() for stream in streams), *beside)]
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({stopped, storing, *loops}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            task.result()  # loops end by their errors alone
        await listener.settle()
        await _close(streams, loops)
        await listener.finish(LAST_S)
    finally:
        await _close(streams, [stopped, storing, *loops])


async def _close(streams: list[Stream], loops: list[asyncio.Task[Any]]) -> None:
    """End the loops, so that nobody connects again, and then every socket."""
    for task in loops:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    await asyncio.gather(*(stream.close() for stream in streams))
