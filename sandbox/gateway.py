"""The WebSocket side: tickets, connections, pushes, acks, redeliveries and goodbyes."""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sandbox.bounded import Bounded
from sandbox.faults import Faults, Goodbyes, Redelivery
from sandbox.frames import Ack, BadAck, encode, frame, read_ack
from sandbox.journal import Journal
from sandbox.refusal import bad_param
from sandbox.rules import Rules

Json = dict[str, Any]
Topics = frozenset[tuple[str, str]]


class Wire(Protocol):
    """What the gateway needs of a socket."""

    deaf: bool

    def push(self, content: str | bytes) -> bool:
        """Write one frame now; False if the socket is closing."""
        ...

    def drop(self, *, reset: bool = False) -> None:
        """Break the connection without a goodbye; `reset` it, so that what is on its way is lost too."""
        ...

    def tear(self, content: str | bytes) -> None:
        """Write the first half of one frame, then reset the connection."""
        ...


@dataclass(slots=True, eq=False)
class Connection:
    """One client connection.

    `retired`: it was told to go and gets nothing more; `mute`: pushes to it are lost; `torn`: the next push breaks it.
    """

    id: str
    wire: Wire
    topics: Topics
    close: Callable[[], None]
    retired: bool = False
    mute: bool = False
    torn: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Push:
    """A message on its way to a client, over all its deliveries. `data` is a JSON document as a string."""

    msg_id: str
    data: str
    topic: str
    kind: str = "CALLBACK"
    conversation: str = ""
    headers: Json | None = None
    deliveries: int = 0
    acked: bool = False


@dataclass(slots=True)
class Delivery:
    """One frame that waits for its ack."""

    push: Push
    connection: str
    at: float


class Gateway:
    """Hands out tickets, keeps the connections, pushes each message to one of them at random."""

    def __init__(
        self,
        journal: Journal,
        rules: Rules,
        faults: Faults,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal = journal
        self.rules = rules
        self.faults = faults
        self._rng = rng or random.Random()
        self._clock = clock
        self._tickets: Bounded[str, tuple[float, Topics]] = Bounded(10_000)
        self._deliveries: Bounded[str, Delivery] = Bounded(1_000_000)
        self._numbers = 0
        self._uncovered_at: float | None = clock()
        self.connections: list[Connection] = []

    def open(self, topics: Topics) -> str:
        """A ticket for one connection."""
        ticket = str(uuid.uuid4())
        self._tickets[ticket] = (self._clock() + self.rules.ticket_s, topics)
        self.journal.add("opened", subscriptions=sorted(f"{kind} {topic}" for kind, topic in topics))
        return ticket

    def redeem(self, ticket: str) -> Topics | None:
        """What the ticket's connection subscribes to; None if it is unknown, used or too old."""
        valid_until, topics = self._tickets.pop(ticket, (0.0, frozenset()))
        if self._clock() < valid_until:
            return topics
        self.journal.add("refused", route="/connect", status=401, code="ticket", processed=False)
        return None

    def join(self, wire: Wire, topics: Topics, close: Callable[[], None]) -> Connection:
        """Take up a connection that has just been made; `close` ends it with a close frame."""
        connection = Connection(f"conn-{self._next()}", wire, topics, close)
        self.connections.append(connection)
        self.journal.add("connected", connection=connection.id)
        self._note_cover()
        if self.faults.stillborn > 0:
            self.faults.stillborn -= 1
            self.kill(connection, pong=self.faults.stillborn_pong)
        if self.rules.registered:
            self.system(connection, "REGISTERED", {})
        self._beat(connection, "ping", self.rules.ping_s)
        self._beat(connection, "KEEPALIVE", self.rules.keepalive_s)
        return connection

    def leave(self, connection: Connection, code: int) -> None:
        """A connection has ended."""
        for timer in connection.timers:
            timer.cancel()
        if connection in self.connections:
            self.connections.remove(connection)
            self.journal.add("closed", connection=connection.id, code=code)
            self._note_cover()

    def pick(self, which: object) -> list[Connection]:
        """The connections that a test names: "all", an index in the order of connecting, or an id."""
        if which == "all":
            return list(self.connections)
        if isinstance(which, int) and 0 <= which < len(self.connections):
            return [self.connections[which]]
        found = [connection for connection in self.connections if connection.id == which]
        if not found:
            raise bad_param("sandbox.connection", f"no connection {which!r}; there are {len(self.connections)}")
        return found

    def push(self, push: Push, connection: Connection | None = None) -> bool:
        """Push to the named connection or to a random one that subscribed; False if there is none."""
        target = connection or self._random(push)
        push.deliveries += 1
        if target is None:
            self.journal.add("unpushed", msgId=push.msg_id, conversation=push.conversation)
        else:
            self._deliver(push, target)
        if (again := self.faults.unacked) is not None:
            self._later(again.after_s, self._redeliver_unacked, push, again)
        return target is not None

    def again(self, push: Push, times: int, after_s: float) -> None:
        """Push `times` more, `after_s` apart, whatever was acknowledged."""
        for n in range(1, times + 1):
            self._later(n * after_s, self.push, push)

    def system(self, connection: Connection, topic: str, data: Json) -> None:
        """Push one SYSTEM frame."""
        text = encode(data)
        self._deliver(Push(msg_id="", data=text, topic=topic, kind="SYSTEM"), connection)

    def disconnect(self, connection: Connection, *, close_after_s: float, reason: str) -> None:
        """Say goodbye, push nothing more, and close the socket later."""
        connection.retired = True
        self._note_cover()
        self.system(connection, "disconnect", {"reason": reason})
        connection.timers.append(asyncio.get_running_loop().call_later(close_after_s, connection.close))

    def disconnect_every(self, every_s: float, close_after_s: float) -> None:
        """Every so often tell the connection that has been up longest to go, until the faults are cleared."""
        rule = self.faults.goodbyes = Goodbyes(every_s, close_after_s)
        self._later(every_s, self._say_goodbye, rule)

    def kill(self, connection: Connection, *, pong: bool) -> None:
        """Make a zombie: pushes to it are lost for ever; without `pong` it does not even read what the client says."""
        connection.mute = True
        connection.wire.deaf = not pong

    def received(self, connection: Connection, text: str | bytes | None) -> None:
        """Take one frame from a client: an ack, or something that is none."""
        try:
            ack = read_ack(text)
            delivery = self._check(connection, ack)
        except BadAck as exc:
            self.journal.add("bad_ack", connection=connection.id, reason=str(exc))
            return
        del self._deliveries[ack.message_id]
        push = delivery.push
        waited_ms = (self._clock() - delivery.at) * 1000
        fields = {"connection": connection.id, "messageId": ack.message_id, "code": ack.code, "after_ms": waited_ms}
        if push.kind == "SYSTEM":
            self.journal.add("answered", topic=push.topic, **fields)
            return
        push.acked = True
        self.journal.add("acked", msgId=push.msg_id, conversation=push.conversation, data=ack.data, **fields)
        if (again := self.faults.acked) is not None and push.deliveries <= again.times:
            self._later(again.after_s, self.push, push)

    def _check(self, connection: Connection, ack: Ack) -> Delivery:
        delivery = self._deliveries.get(ack.message_id)
        if delivery is None:
            raise BadAck("nothing with this messageId waits for an ack")
        if delivery.connection != connection.id:
            raise BadAck("the ack came on another socket than the frame")
        if delivery.push.topic == "ping" and encode(ack.data) != delivery.push.data:
            raise BadAck("the ack of a ping must carry its data")
        return delivery

    def _deliver(self, push: Push, connection: Connection) -> None:
        message_id = f"{self._next():08x}_0001_stream"
        self._deliveries[message_id] = Delivery(push, connection.id, self._clock())
        headers = {**(push.headers or {}), "appId": "sandbox", "connectionId": connection.id}
        now_ms = int(time.time() * 1000)
        text = frame(push.kind, push.topic, push.data, message_id=message_id, now_ms=now_ms, headers=headers)
        kind = "system" if push.kind == "SYSTEM" else "pushed"
        # Written before the bytes leave, so that an ack can never come first in the log.
        event = self.journal.add(
            kind,
            msgId=push.msg_id,
            connection=connection.id,
            messageId=message_id,
            topic=push.topic,
            conversation=push.conversation,
            delivery=push.deliveries,
            lost=connection.mute,
        )
        if connection.torn and not connection.mute:
            connection.wire.tear(text)
            connection.mute = event["lost"] = True
        elif not connection.mute and not connection.wire.push(text):
            event["lost"] = True

    def _random(self, push: Push) -> Connection | None:
        return self._rng.choice(ready) if (ready := list(self._ready(push))) else None

    def _ready(self, push: Push) -> Iterable[Connection]:
        wanted = ("EVENT", "*") if push.kind == "EVENT" else (push.kind, push.topic)
        return (c for c in self.connections if not c.retired and wanted in c.topics)

    def _redeliver_unacked(self, push: Push, rule: Redelivery) -> None:
        if not push.acked and self.faults.unacked is rule and push.deliveries <= rule.times:
            self.push(push)

    def _say_goodbye(self, rule: Goodbyes) -> None:
        if self.faults.goodbyes is not rule:
            return
        if longest := next((c for c in self.connections if not c.retired), None):
            self.disconnect(longest, close_after_s=rule.close_after_s, reason="connection is expired")
        self._later(rule.every_s, self._say_goodbye, rule)

    def _note_cover(self) -> None:
        """Write down since when nobody gets what is pushed, and that somebody does again."""
        covered = any(not connection.retired for connection in self.connections)
        if not covered and self._uncovered_at is None:
            self._uncovered_at = self._clock()
            self.journal.add("uncovered")
        elif covered and self._uncovered_at is not None:
            self.journal.add("covered", after_ms=(self._clock() - self._uncovered_at) * 1000)
            self._uncovered_at = None

    def _beat(self, connection: Connection, topic: str, every_s: float) -> None:
        if every_s <= 0:
            return

        def beat() -> None:
            connection.timers = [timer for timer in connection.timers if not _over(timer)]
            if connection in self.connections and not connection.retired and not connection.mute:
                self.system(connection, topic, {"opaque": f"k-{self._next()}"} if topic == "ping" else {})
                self._beat(connection, topic, every_s)

        connection.timers.append(asyncio.get_running_loop().call_later(every_s, beat))

    def _later(self, after_s: float, what: Callable[..., object], *args: object) -> None:
        asyncio.get_running_loop().call_later(after_s, what, *args)

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers


def _over(timer: asyncio.TimerHandle) -> bool:
    return timer.cancelled() or timer.when() <= asyncio.get_running_loop().time()
