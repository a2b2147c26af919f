"""What a process holds is renewed, and ended when it is lost, stopped, or takes too long."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from structlog.testing import capture_logs

from app import keys
from app.acceptance import Limits
from app.keys import Box
from app.mailbox import Idle, Lease, Mailbox
from app.message import Message
from app.redis import Store
from tests.app.supervised import eventually
from tests.samples import a_message, a_reply
from tests.valkey import free_port
from tests.workers.desk import House, a_house
from workers.leases import Holding, Leases, keep_pace


@pytest.fixture
def house(store: Store) -> Iterator[House]:
    with a_house(store, lease_s=0.3) as house:
        yield house


def until_ms(house: House, message: Message) -> int:
    return int(house.store.client.hget(keys.state("inbox", message.conversation), "until") or 0)


def renewals(house: House, message: Message, count: int) -> None:
    """Wait until a lease was renewed so many times."""
    for _ in range(count):
        before = until_ms(house, message)
        eventually(lambda before=before: until_ms(house, message) > before)  # type: ignore[misc]


def test_what_is_held_is_renewed_and_nothing_else(store: Store) -> None:
    """The lease is long enough for a machine that stands still for a second."""
    with a_house(store, lease_s=3.0) as house:
        message = house.gets(a_message())
        held = house.take(message)
        first_end_s = until_ms(house, message) / 1000

        with house.leases.holding(held, limit_s=60.0) as holding:
            eventually(lambda: time.time() > first_end_s)
            busy = house.boxes.inbox.lease(message.conversation, "text")
            count = house.leases.count()

        assert (busy, count, holding.ending) == (Idle.BUSY, 1, None)
        assert house.leases.count() == 0
        eventually(lambda: house.boxes.inbox.overdue(keys.shard_of(message.conversation), 1))


def test_all_that_a_process_holds_is_renewed_together(house: House) -> None:
    messages = [house.gets(a_message(sender=f"person {number}")) for number in range(20)]

    held = [house.take(message) for message in messages]
    before = {message.id: until_ms(house, message) for message in messages}

    with ExitStack() as stack:
        opened = [stack.enter_context(house.leases.holding(one, limit_s=60.0)) for one in held]
        eventually(lambda: all(until_ms(house, one) > before[one.id] for one in messages))

    assert [holding.ending for holding in opened] == [None] * 20


def test_a_lost_lease_ends_its_work_and_no_other(house: House) -> None:
    lost, kept = house.gets(a_message(sender="lost")), house.gets(a_message(sender="kept"))
    ended = threading.Event()

    with (
        house.leases.holding(house.take(lost), limit_s=60.0) as losing,
        house.leases.holding(house.take(kept), limit_s=60.0) as keeping,
    ):
        losing.on_end(ended.set)
        house.steal(lost)
        assert ended.wait(20)
        renewals(house, kept, 1)

    assert (losing.ending, keeping.ending) == ("lost", None)


def test_a_stop_request_ends_the_work_and_keeps_the_lease(house: House) -> None:
    message = house.gets(a_message())

    with house.leases.holding(house.take(message), limit_s=60.0) as holding:
        house.stop(a_message(text="/stop"))
        eventually(lambda: holding.ending)
        renewals(house, message, 1)

    assert holding.ending == "stopped"


def test_work_over_its_limit_is_ended_and_reported_once(house: House) -> None:
    message = house.gets(a_message())

    with house.leases.holding(house.take(message), limit_s=0.1) as holding:
        eventually(lambda: house.head(message)["vanished"])

    assert (holding.ending, house.hung) == ("hung", 1)


def test_work_that_does_not_heed_a_stop_hangs_all_the_same(house: House) -> None:
    """It would be renewed for ever, and its person would wait for ever."""
    message = house.gets(a_message())

    with house.leases.holding(house.take(message), limit_s=60.0) as holding:
        house.stop(a_message(text="/stop"))
        eventually(lambda: holding.ending == "stopped")
        holding.allow(0.1)
        eventually(lambda: house.head(message)["vanished"])

    assert (holding.ending, house.hung) == ("hung", 1)


def test_what_hangs_holds_nobody_up(house: House) -> None:
    """A process that leaves waits for work that may still end, and for no other."""
    hung, slow = house.gets(a_message(sender="hung")), house.gets(a_message(sender="slow"))

    with house.leases.holding(house.take(hung), limit_s=60.0) as hanging:
        with house.leases.holding(house.take(slow), limit_s=60.0) as drained:
            hanging.end("hung")
            drained.end("drained")
            both = (house.leases.count(), house.leases.busy())
        alone = (house.leases.count(), house.leases.busy())

    assert (both, alone) == ((2, 1), (1, 0))


def test_silence_is_hanging_only_while_somebody_listens(house: House) -> None:
    """Only an engine has tokens to give."""
    message = house.gets(a_message())

    with house.leases.holding(house.take(message), limit_s=60.0) as holding:
        renewals(house, message, 3)
        with holding.listening(30.0):
            renewals(house, message, 1)
            before = holding.ending
        with holding.listening(0.01):
            eventually(lambda: holding.ending)

    assert (before, holding.ending) == (None, "hung")


def test_a_sign_of_life_ends_the_silence() -> None:
    held = Holding(lease=None, limit_s=60.0)  # type: ignore[arg-type]

    def heard() -> bool:
        held.touch()
        return not held.overdue()

    with held.listening(0.05):
        eventually(held.overdue)
        eventually(heard)


def test_the_first_reason_to_end_counts_and_is_told_at_once_to_who_asks_late() -> None:
    held, told = Holding(lease=None, limit_s=60.0), []  # type: ignore[arg-type]
    held.on_end(lambda: told.append("before"))

    held.end("stopped")
    held.end("lost")
    held.on_end(lambda: told.append("after"))

    assert (held.ending, told) == ("stopped", ["before", "after"])


def test_a_record_that_forgot_its_scripts_is_taught_again(house: House) -> None:
    """So it is after a restart."""
    message = house.gets(a_message())

    with house.leases.holding(house.take(message), limit_s=60.0) as holding:
        renewals(house, message, 1)
        house.store.client.script_flush()
        renewals(house, message, 2)

    assert holding.ending is None


def test_renewing_goes_on_when_connections_were_cut(house: House) -> None:
    message = house.gets(a_message())

    with house.leases.holding(house.take(message), limit_s=60.0) as holding:
        for _ in range(3):
            house.store.client.client_kill_filter(_type="normal", skipme=True)
            renewals(house, message, 1)

    assert holding.ending is None


def test_what_does_not_end_is_given_back_uncounted_unless_it_hangs_or_sends(house: House) -> None:
    """A skill that does not listen is slow, not guilty; a call to the platform may be under way."""
    slow, hung, sent = (house.gets(a_message(sender=name)) for name in ("slow", "hung", "sent"))
    house.boxes.inbox.commit(house.take(sent), reply=a_reply(sent))
    reply = house.boxes.outbox.lease(sent.conversation, "send")
    assert isinstance(reply, Lease)

    with (
        house.leases.holding(house.take(slow), limit_s=60.0),
        house.leases.holding(house.take(hung), limit_s=60.0) as hanging,
        house.leases.holding(reply, limit_s=60.0),
    ):
        hanging.end("hung")
        house.leases.end_all("drained")
        given_back = house.leases.give_back()

    assert given_back == [("text", slow.conversation)]
    assert (house.take(slow).vanished, house.steal(hung).vanished) == (0, 1)
    house.boxes.outbox.commit(reply)


def test_a_record_that_does_not_answer_is_waited_for_once_and_not_by_each_turn(house: House) -> None:
    """Thirty-two turns would keep the process long beyond its time; their leases expire instead."""
    deaf = Store(f"redis://127.0.0.1:{free_port()}/0", deadline_s=0.2, timeout_s=0.2)
    boxes: dict[Box, Mailbox] = {"inbox": Mailbox(deaf, "inbox", Limits(lease_s=60.0))}
    leases = Leases(boxes, lease_s=60.0, on_hung=lambda: None)
    held = [house.take(house.gets(a_message(sender=f"p{number}"))) for number in range(32)]

    with ExitStack() as stack, capture_logs() as logs:
        for lease in held:
            stack.enter_context(leases.holding(lease, limit_s=60.0))
        given_back = leases.give_back()
    leases.close()

    assert given_back == []
    assert len(logs) == 1
    assert "the record does not answer" in logs[0]["event"]


def test_what_begins_after_all_were_told_to_end_ends_at_once(house: House) -> None:
    """Its lease took its time: nobody looks again, and the process is about to leave."""
    message = house.gets(a_message())
    house.leases.end_all("drained")

    house.turn(message)

    assert house.texts(message) == []
    assert (house.take(message).vanished, house.wakes.take()[-1]) == (0, "text")


def test_a_worker_hands_pythons_lock_on_sooner_than_by_default() -> None:
    """A renewal waits for it several times, each time for all threads that compute: see benchmarks/renewals.py."""
    kept = sys.getswitchinterval()
    try:
        keep_pace()
        assert sys.getswitchinterval() <= 0.001
    finally:
        sys.setswitchinterval(kept)


def test_nothing_is_renewed_after_the_close(house: House) -> None:
    message = house.gets(a_message())
    house.leases.close()

    with house.leases.holding(house.take(message), limit_s=60.0):
        eventually(lambda: house.boxes.inbox.overdue(keys.shard_of(message.conversation), 1))
