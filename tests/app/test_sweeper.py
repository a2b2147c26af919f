"""What is due and did not move is woken again, by one process at a time, and never as a storm."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from app import keys
from app.acceptance import Limits
from app.errors import BrokerUnavailable, StoreUnavailable
from app.keys import Box
from app.mailbox import SWEEP_AT_MOST, Lease, Mailbox
from app.message import Message
from app.redis import Store
from app.sweeper import Sweeper
from tests.app.supervised import eventually
from tests.conftest import Boxes
from tests.samples import a_message, a_reply, notices

Woken = list[tuple[str, str]]
PASSED_MS = 3_000  # more than the grace of a waiting head


class Sweeping:
    """Sweepers on one record; what they wake is kept."""

    def __init__(self, store: Store, boxes: Boxes) -> None:
        self.store, self.boxes = store, boxes
        self.woken: Woken = []
        self.filled: list[str] = []
        self._sweepers = ExitStack()

    def sweeper(
        self,
        *,
        filled: Callable[[], list[str]] | None = None,
        woken: Woken | None = None,
        store: Store | None = None,
    ) -> Sweeper:
        """One that sweeps by itself needs a store of its own beside another: each process has one."""
        kept = self.woken if woken is None else woken

        def wake(queue: str, conversation: str, /) -> None:
            kept.append((queue, conversation))

        boxes = (self.boxes.inbox, self.boxes.outbox, self.boxes.control)
        filled = filled or (lambda: self.filled)
        sweeper = Sweeper(store or self.store, boxes, wake=wake, filled=filled, interval_s=0.05)
        self._sweepers.callback(sweeper.close)
        return sweeper

    def sweep(self) -> Woken:
        """One sweep; what it woke."""
        self.woken.clear()
        self.sweeper().sweep()
        return list(self.woken)

    def gets(self, message: Message, queue: str = "text") -> Message:
        self.boxes.inbox.accept(message, queue, notices=notices(message), room=100_000)
        return message

    def passes(self, message: Message, box: Box = "inbox", ms: int = PASSED_MS) -> None:
        """So much time passes for a conversation."""
        name, place = keys.due(box, keys.shard_of(message.conversation)), keys.state(box, message.conversation)
        self.store.client.zincrby(name, -ms, message.conversation)
        for field in ("woken", "until"):
            if self.store.client.hexists(place, field):
                self.store.client.hincrby(place, field, -ms)

    def close(self) -> None:
        self._sweepers.close()


@pytest.fixture
def sweeping(store: Store, boxes: Boxes) -> Iterator[Sweeping]:
    made = Sweeping(store, boxes)
    yield made
    made.close()


def test_a_lost_wake_up_is_repeated(sweeping: Sweeping) -> None:
    """The listener died between accept and wake, or the broker forgot."""
    message = sweeping.gets(a_message(), "image")
    sweeping.passes(message)

    assert sweeping.sweep() == [("image", message.conversation)]


def test_what_was_woken_just_now_is_left_alone(sweeping: Sweeping) -> None:
    message = sweeping.gets(a_message())

    early = sweeping.sweep()
    sweeping.passes(message)
    woken = sweeping.sweep()
    again = sweeping.sweep()

    assert (early, woken, again) == ([], [("text", message.conversation)], [])


def test_what_somebody_works_on_is_left_alone(sweeping: Sweeping) -> None:
    message = sweeping.gets(a_message())
    assert isinstance(sweeping.boxes.inbox.lease(message.conversation, "text"), Lease)
    sweeping.store.client.zadd(keys.due("inbox", keys.shard_of(message.conversation)), {message.conversation: 1})

    assert sweeping.sweep() == []


def test_a_conversation_whose_worker_vanished_is_woken(sweeping: Sweeping) -> None:
    message = sweeping.gets(a_message())
    sweeping.boxes.inbox.lease(message.conversation, "text")
    sweeping.passes(message, ms=10_000)

    assert sweeping.sweep() == [("text", message.conversation)]


def test_replies_and_stop_requests_are_swept_too(sweeping: Sweeping) -> None:
    message, stop = sweeping.gets(a_message()), a_message(text="/stop")
    held = sweeping.boxes.inbox.lease(message.conversation, "text")
    assert isinstance(held, Lease)
    sweeping.boxes.inbox.commit(held, reply=a_reply(message))
    sweeping.boxes.control.accept(stop, "control", notices=notices(stop))
    sweeping.passes(message, "outbox")
    sweeping.passes(stop, "control")

    assert sorted(sweeping.sweep()) == [("control", stop.conversation), ("send", message.conversation)]


def test_a_queue_that_is_not_empty_has_more_time(sweeping: Sweeping) -> None:
    """The wake-up is probably in that queue: a long backlog never becomes a storm."""
    message, other = sweeping.gets(a_message(sender="a")), sweeping.gets(a_message(sender="b"), "image")
    sweeping.filled = ["text"]
    sweeping.passes(message)
    sweeping.passes(other)

    early = sweeping.sweep()
    sweeping.passes(message, ms=30_000)
    late = sweeping.sweep()

    assert early == [("image", other.conversation)]
    assert late == [("text", message.conversation)]


def test_a_queue_that_has_become_empty_is_noticed_soon(sweeping: Sweeping) -> None:
    """Its workers were killed with this wake-up in their hands; those that came after them have done the rest."""
    message = sweeping.gets(a_message())
    sweeping.filled = ["text"]
    sweeping.passes(message)

    early = sweeping.sweep()
    sweeping.filled = []
    sweeping.passes(message)
    late = sweeping.sweep()

    assert (early, late) == ([], [("text", message.conversation)])


def test_a_long_backlog_is_not_looked_through_again_and_again(sweeping: Sweeping) -> None:
    """A sweep has room for 500, and somebody may be among them whose worker vanished."""
    messages = [sweeping.gets(a_message(sender=f"person {number}")) for number in range(SWEEP_AT_MOST)]
    sweeping.filled = ["text"]
    for message in messages:
        sweeping.passes(message)

    woken = sweeping.sweep()
    for message in messages:
        sweeping.passes(message)
    due = [name for shard in range(keys.SHARDS) for name in sweeping.boxes.inbox.overdue(shard, SWEEP_AT_MOST)]

    assert (woken, due) == ([], [])


def test_at_most_five_hundred_are_woken_oldest_first(sweeping: Sweeping) -> None:
    messages = [sweeping.gets(a_message(sender=f"person {number}")) for number in range(SWEEP_AT_MOST + 20)]
    for number, message in enumerate(messages):
        name = keys.due("inbox", keys.shard_of(message.conversation))
        sweeping.store.client.zadd(name, {message.conversation: 1000 + number})

    first = [conversation for _, conversation in sweeping.sweep()]
    second = [conversation for _, conversation in sweeping.sweep()]

    assert set(first) == {message.conversation for message in messages[:SWEEP_AT_MOST]}
    assert set(second) == {message.conversation for message in messages[SWEEP_AT_MOST:]}


def test_one_process_sweeps_and_another_takes_over(sweeping: Sweeping) -> None:
    """Not when the first one ends, which nobody would notice, but when it renews no more."""
    record, message = sweeping.store.client, sweeping.gets(a_message())
    record.set(keys.SWEEPER, "another process", px=60_000)
    sweeping.passes(message)
    sweeping.sweeper().start()
    time.sleep(0.3)  # several of its intervals: it must not sweep, and there is nothing to poll for
    early = list(sweeping.woken)

    record.pexpire(keys.SWEEPER, 1)
    eventually(lambda: sweeping.woken)

    assert (early, sweeping.woken) == ([], [("text", message.conversation)])
    assert record.get(keys.SWEEPER) != b"another process"


def test_a_sweeper_keeps_sweeping(sweeping: Sweeping) -> None:
    message = sweeping.gets(a_message())
    sweeping.sweeper().start()

    for number in range(1, 4):
        sweeping.passes(message)
        eventually(lambda number=number: len(sweeping.woken) >= number)  # type: ignore[misc]

    assert len(sweeping.woken) == 3


def test_a_sweeper_survives_a_broker_and_a_record_that_do_not_answer(sweeping: Sweeping) -> None:
    troubles = [StoreUnavailable("no record"), BrokerUnavailable("no broker")]

    def filled() -> list[str]:
        if troubles:
            raise troubles.pop()
        return []

    message = sweeping.gets(a_message())
    sweeping.passes(message)
    sweeping.sweeper(filled=filled).start()

    eventually(lambda: sweeping.woken)

    assert (troubles, sweeping.woken) == ([], [("text", message.conversation)])


def test_without_a_broker_what_is_due_stays_due(sweeping: Sweeping) -> None:
    """A wake-up that cannot be published would cost the conversation another grace."""
    message = sweeping.gets(a_message())
    sweeping.passes(message)

    def filled() -> list[str]:
        raise BrokerUnavailable("no broker")

    with pytest.raises(BrokerUnavailable):
        sweeping.sweeper(filled=filled).sweep()

    assert sweeping.sweep() == [("text", message.conversation)]


def test_who_cannot_reach_the_broker_leaves_sweeping_to_another(sweeping: Sweeping, valkey_url: str) -> None:
    """The other wakes it only when sweeping was passed on: who is cut off renews its claim while it sweeps."""

    def filled() -> list[str]:
        raise BrokerUnavailable("no way from here")

    message = sweeping.gets(a_message())
    sweeping.passes(message)
    sweeping.sweeper(filled=filled).start()
    eventually(lambda: sweeping.store.client.get(keys.SWEEPER))
    with closing(Store(valkey_url, deadline_s=5.0)) as store:
        sweeping.sweeper(store=store).start()

        eventually(lambda: sweeping.woken)
        sweeping.close()

    assert sweeping.woken == [("text", message.conversation)]


def test_an_empty_record_is_swept_at_no_cost(sweeping: Sweeping) -> None:
    """Not even the broker is asked."""

    def filled() -> list[str]:
        raise AssertionError("nothing is due")

    assert sweeping.sweeper(filled=filled).sweep() == 0


def test_a_box_that_is_not_swept_is_left_alone(sweeping: Sweeping, store: Store) -> None:
    message = sweeping.gets(a_message())
    sweeping.passes(message)
    control = Mailbox(store, "control", Limits())

    assert Sweeper(store, [control], wake=lambda *_: None, filled=list, interval_s=60.0).sweep() == 0
