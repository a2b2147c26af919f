"""A house for tests: the real record, desks and leases; the platform is in memory, and wake-ups are kept to look at."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec

from app import keys
from app.acceptance import Limits
from app.drafts import Drafts
from app.keys import Box
from app.mailbox import Idle, Lease, Mailbox
from app.message import Message, Reply
from app.redis import Store
from app.routing import route
from app.wire import decode_reply
from app.wording import Wording
from skills.sdk import Context, SkillPlugin
from tests.conftest import Boxes
from tests.samples import a_reply, notices
from tests.workers.recording_outlet import RecordingOutlet
from workers.delivery import SendDesk, deliver
from workers.engine.echo import EchoEngine
from workers.leases import Leases
from workers.skills import Skill, Skills, load_skills
from workers.turn import Desk, run_turn
from workers.typing import Typing

PATIENCE_S = 20.0


class Wakes:
    """What was woken, in order; nobody comes."""

    def __init__(self) -> None:
        self.now: list[tuple[str, str]] = []
        self.later: list[tuple[str, str, float]] = []

    def wake(self, queue: str, conversation: str, /) -> None:
        self.now.append((queue, conversation))

    def wake_later(self, queue: str, conversation: str, after_s: float, /) -> None:
        self.later.append((queue, conversation, after_s))

    def take(self) -> list[str]:
        """The queues woken since the last time."""
        queues = [queue for queue, _ in self.now]
        self.now.clear()
        return queues


class House:
    """One record, one process of each pool."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self.store = store
        self.boxes = Boxes(store, limits)
        self.wakes = Wakes()
        self.hung = 0
        self.leases = self._new_leases(limits.lease_s)
        self.wording = Wording("en")
        self.outlet = RecordingOutlet()
        self.desk = self._turn_desk()
        self.sending = self._send_desk()

    def _new_leases(self, lease_s: float) -> Leases:
        boxes: dict[Box, Mailbox] = {
            "inbox": self.boxes.inbox,
            "outbox": self.boxes.outbox,
            "control": self.boxes.control,
        }
        return Leases(boxes, lease_s=lease_s, on_hung=self._on_hung)

    def restart(self) -> None:
        """This process has left, and the next one is there."""
        self.leases.close()
        self.leases = self.desk.leases = self.sending.leases = self._new_leases(self.boxes.inbox.limits.lease_s)

    def _on_hung(self) -> None:
        self.hung += 1

    def _turn_desk(self) -> Desk:
        wake = self.wakes.wake
        typing = Typing(Drafts(self.store), wake, enabled=True, least_interval_s=0.05, calls_per_s=1000.0)
        return Desk(
            inbox=self.boxes.inbox,
            store=self.store,
            leases=self.leases,
            skills=load_skills(),
            wake=wake,
            wake_later=self.wakes.wake_later,
            wording=self.wording,
            typing=typing,
            engine=EchoEngine(slots=4),
        )

    def _send_desk(self) -> SendDesk:
        return SendDesk(
            outbox=self.boxes.outbox,
            leases=self.leases,
            outlet=self.outlet,
            wake=self.wakes.wake,
            wake_later=self.wakes.wake_later,
            wording=self.wording,
            cards=lambda: True,
        )

    def answers_with(self, *skills: Skill) -> None:
        self.desk.skills = Skills(skills)

    def speaks_at(self, tokens_per_s: float) -> EchoEngine:
        """Another engine, of this speed."""
        if self.desk.engine is not None:
            self.desk.engine.close()
        self.desk.engine = engine = EchoEngine(slots=4, tokens_per_s=tokens_per_s)
        return engine

    def gets(self, message: Message, queue: str = "") -> Message:
        """A message is accepted."""
        self.boxes.inbox.accept(message, queue or route(message), notices=notices(message))
        return message

    def stop(self, message: Message) -> None:
        self.boxes.control.accept(message, "control", notices=notices(message))

    def owes(self, message: Message, text: str = "hi") -> Message:
        """A reply to a message waits for the sender."""
        self.gets(message, "text")
        self.boxes.inbox.commit(self.take(message), reply=a_reply(message, text))
        return message

    def take(self, message: Message, queue: str = "text") -> Lease:
        """Another worker takes the head."""
        held = self.boxes.inbox.lease(message.conversation, queue)
        assert isinstance(held, Lease)
        return held

    def steal(self, message: Message, box: Box = "inbox") -> Lease:
        """Another worker takes what somebody holds, as if that one had slept past its time."""
        mailbox, queue = (self.boxes.outbox, "send") if box == "outbox" else (self.boxes.inbox, "text")
        for _ in range(100):
            self.expire(message, box)
            held = mailbox.lease(message.conversation, queue)
            if isinstance(held, Lease):
                return held  # else it was renewed in between
        raise AssertionError("the lease cannot be taken")

    def turn(self, message: Message, queue: str = "text") -> None:
        run_turn(message.conversation, queue, desk=self.desk)

    def expire(self, message: Message, box: Box = "inbox") -> None:
        """The holder of a lease slept past its time."""
        self.store.client.hset(keys.state(box, message.conversation), "until", 1)

    def hasten(self, message: Message, box: Box = "inbox") -> None:
        """What was given back for later is due now."""
        waiting = self.items(box, message)
        if waiting and "later" in waiting[0]:
            self.rewrite_head(message, box, later=1)

    def rewrite_head(self, message: Message, box: Box = "inbox", **changes: Any) -> None:
        """Change what the record says about the head of a mailbox."""
        item = {**self.head(message, box), **changes}
        self.store.client.lset(keys.items(box, message.conversation), 0, msgspec.msgpack.encode(item))  # type: ignore[arg-type]

    def vanish(self, message: Message) -> None:
        """A worker takes the head and is never heard of again; nobody waits for a suspect's rest."""
        if self.boxes.inbox.lease(message.conversation, "text") is Idle.BUSY:
            self.hasten(message)
            self.take(message)
        self.expire(message)

    def deliver(self, message: Message) -> None:
        deliver(message.conversation, desk=self.sending)

    def deliver_all(self, message: Message) -> None:
        """Until nothing waits; whoever died is replaced, and nobody waits for a back-off."""
        died = False
        for _ in range(30):
            if died:  # each time: a renewal of the dead one may have been on its way
                self.expire(message, "outbox")
            try:
                self.deliver(message)
            except SystemExit:
                died = True
            if not self.items("outbox", message):
                return
            self.hasten(message, "outbox")
        raise AssertionError("the outbox is not empty")

    def items(self, box: Box, message: Message) -> list[dict[str, Any]]:
        """What a mailbox of a message's conversation holds."""
        packed: Any = self.store.client.lrange(keys.items(box, message.conversation), 0, -1)
        return [msgspec.msgpack.decode(one) for one in packed]

    def head(self, message: Message, box: Box = "inbox") -> dict[str, Any]:
        return self.items(box, message)[0]

    def replies(self, message: Message) -> list[Reply]:
        """What waits for the sender."""
        return [decode_reply(item["body"]) for item in self.items("outbox", message)]

    def texts(self, message: Message) -> list[str]:
        return [reply.text for reply in self.replies(message)]

    def dead_letters(self, message: Message) -> list[dict[str, Any]]:
        kept: Any = self.store.client.zrange(keys.dead(keys.shard_of(message.conversation)), 0, -1)
        return [json.loads(one) for one in kept]

    def draft(self, message: Message) -> dict[bytes, bytes]:
        return self.store.client.hgetall(keys.draft(message.conversation))  # type: ignore[return-value]

    def close(self) -> None:
        self.leases.close()
        if self.desk.engine is not None:
            self.desk.engine.close()


@contextmanager
def a_house(store: Store, *, lease_s: float = 5.0, stale_after_s: float = 900.0) -> Iterator[House]:
    """A house on an empty record; its engine answers at once with the person's own words."""
    house = House(store, Limits(lease_s=lease_s, stale_after_s=stale_after_s))
    try:
        yield house
    finally:
        house.close()


def a_skill(
    run: Callable[[Context, Message], Any],
    *,
    queue: str = "text",
    kinds: tuple[str, ...] = ("text",),
    commands: tuple[str, ...] = (),
    remembers: bool = False,
    time_limit_s: float | None = None,
) -> Skill:
    """A skill whose `execute` is a function of the context and the message."""

    class Made(SkillPlugin):
        def execute(self, processed: Message) -> Any:
            return run(self.context, processed)

    return Skill(
        name="made",
        make=Made,
        kinds=kinds,
        commands=commands,
        queue=queue,
        remembers=remembers,
        time_limit_s=time_limit_s,
        summary={},
    )


class Gate:
    """A skill that says when it runs, and waits until it may go on."""

    def __init__(self, says: str = "at last") -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self._says = says

    def __call__(self, context: Context, message: Message) -> str:
        self.entered.set()
        assert self.opened.wait(PATIENCE_S)
        return self._says


@contextmanager
def meanwhile(call: Callable[..., Any], *args: Any) -> Iterator["Future[Any]"]:
    """Run something beside the block; what it raised is raised at the end."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, *args)
        yield future
        future.result(PATIENCE_S)
