"""A sender calls a platform only under a lease that holds, and each call ends before that does."""

import time
from collections.abc import Callable, Iterator

import pytest

from app.errors import LeaseLost
from app.keys import shard_of
from app.mailbox import DraftLease, Lease
from app.message import Message
from app.redis import Store
from tests.app.supervised import eventually
from tests.samples import a_message
from tests.workers.desk import House, a_house
from tests.workers.recording_outlet import NO_CARDS, Seen
from workers.fence import LeaseFence

LEASE_S = 5.0


@pytest.fixture
def house(store: Store) -> Iterator[House]:
    with a_house(store, lease_s=LEASE_S) as house:
        yield house


@pytest.fixture
def asleep(store: Store) -> Iterator[House]:
    """A house in which nobody renews: what a process is that was stopped in the middle."""
    with a_house(store, lease_s=0.3) as house:
        house.leases.close()
        yield house


def leased(house: House, message: Message) -> Lease | DraftLease:
    held = house.boxes.outbox.lease(message.conversation, "send")
    assert isinstance(held, Lease | DraftLease)
    return held


def take_over(house: House, message: Message) -> None:
    """Another sender takes what this one holds, between two renewals."""

    def taken() -> bool:
        house.expire(message, "outbox")
        return isinstance(house.boxes.outbox.lease(message.conversation, "send"), Lease | DraftLease)

    eventually(taken)


def until_expired(house: House, message: Message) -> None:
    eventually(lambda: house.boxes.outbox.overdue(shard_of(message.conversation), 1))


def a_draft(house: House) -> Message:
    message = house.gets(a_message())
    house.desk.typing.show(house.take(message), message.address, "hel")
    return message


def no_cards(house: House) -> Message:
    house.sending.cards = lambda: False
    return house.owes(a_message(), "the answer")


def card(house: House) -> Message:
    return house.owes(a_message(), "the answer")


def no_way_but_the_last(house: House) -> Message:
    house.outlet.fails("open", NO_CARDS)
    house.outlet.fails("webhook", NO_CARDS)
    return house.owes(a_message(), "the answer")


@pytest.mark.parametrize("owing", [a_draft, card, no_cards])
def test_a_sender_that_lost_its_lease_before_the_check_makes_no_call(
    house: House, owing: Callable[[House], Message]
) -> None:
    """Another one has the conversation, and may have sent the very same thing already."""
    message = owing(house)
    house.outlet.before_next_check = lambda: take_over(house, message)

    house.deliver(message)

    assert house.outlet.calls == []


# What the next sender does: the record knows of a card, so it tries to write into that one first.
NEXT = [(a_draft, ["update", "open"]), (card, ["finish", "open", "finish"]), (no_cards, ["webhook"])]


@pytest.mark.parametrize(("owing", "calls_of_the_next"), NEXT)
def test_a_sender_that_slept_between_check_and_call_makes_no_call(
    asleep: House, owing: Callable[[House], Message], calls_of_the_next: list[str]
) -> None:
    """Its clock went on while it slept; whoever took over has sent it by now."""
    message = owing(asleep)

    def somebody_else_sends_it() -> None:
        until_expired(asleep, message)
        asleep.deliver(message)

    asleep.outlet.before_next_call = somebody_else_sends_it

    asleep.deliver(message)

    assert asleep.outlet.calls == calls_of_the_next


def test_a_sender_that_slept_and_still_has_its_lease_sends_late_and_once(asleep: House) -> None:
    """The call was not made, and that is known: nothing is unsure about it."""
    asleep.sending.unsure = "skip"
    message = no_cards(asleep)
    asleep.outlet.before_next_call = lambda: eventually(
        lambda: asleep.boxes.outbox.overdue(shard_of(message.conversation), 1)
    )

    asleep.deliver(message)
    before = list(asleep.outlet.seen)
    asleep.deliver_all(message)

    assert before == []
    assert asleep.outlet.seen == [Seen("webhook", "the answer")]


@pytest.mark.parametrize("call", range(3))
def test_each_way_is_checked_for_itself(house: House, call: int) -> None:
    """The card took its time to be refused, and then the webhook: the lease may be lost before any of them."""
    message = no_way_but_the_last(house)
    calls = 0

    def steal_before_that_one() -> None:
        nonlocal calls
        calls += 1
        if calls > call:
            take_over(house, message)
        else:
            house.outlet.before_next_check = steal_before_that_one

    house.outlet.before_next_check = steal_before_that_one
    house.deliver(message)

    assert house.outlet.calls == ["open", "webhook", "proactive"][:call]


def test_the_end_of_a_call_moves_on_with_the_renewals(house: House) -> None:
    """A platform that answers slowly is waited for as long as the lease holds."""
    message = card(house)
    held = leased(house, message)

    with house.leases.holding(held, limit_s=60.0) as holding:
        fence = LeaseFence(holding, house.boxes.outbox)
        before = fence.ends_at()
        asked_at = time.monotonic()
        fence.check()
        first = fence.ends_at()
        eventually(lambda: fence.ends_at() > first)

    assert before == float("-inf")
    assert asked_at < first < asked_at + LEASE_S


@pytest.mark.parametrize("ending", ["lost", "hung"])
def test_work_that_was_ended_passes_no_fence(house: House, ending: str) -> None:
    """What hangs is not renewed any more, so it may soon be another's."""
    message = card(house)

    with house.leases.holding(leased(house, message), limit_s=60.0) as holding:
        fence = LeaseFence(holding, house.boxes.outbox)
        fence.check()
        holding.end(ending)  # type: ignore[arg-type]

        with pytest.raises(LeaseLost):
            fence.check()
        over = fence.ends_at()

    assert (over == float("-inf")) == (ending == "lost")
