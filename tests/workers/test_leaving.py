"""A sender that will soon be gone: no message is begun that could be cut, what was sent is marked, nobody is blamed."""

from collections.abc import Iterator

import pytest

from app.errors import Drained
from app.message import Message
from app.redis import Store
from tests.samples import a_message
from tests.workers.desk import House, a_house
from tests.workers.recording_outlet import Seen
from workers.leaving import Leaving

CALL_S, LONG = 10.0, 20


@pytest.fixture
def house(store: Store) -> Iterator[House]:
    with a_house(store) as house:
        house.sending.call_s = CALL_S
        house.outlet.longest = LONG
        yield house


def replaced(house: House) -> None:
    """The next sender, which stays."""
    house.sending.leaving = Leaving()
    house.sending.draining.clear()


def uncounted(house: House, message: Message) -> bool:
    head = house.head(message, "outbox")
    return (head["vanished"], head["raised"]) == (0, 0)


def test_a_message_is_not_begun_when_it_could_be_cut(house: House) -> None:
    """It has no key: who is killed in mid-call makes the next sender show it again."""
    house.sending.cards = lambda: False
    house.sending.leaving.within(CALL_S - 1)
    message = house.owes(a_message(), "the answer")

    house.deliver(message)
    before = list(house.outlet.calls)
    blamed = not uncounted(house, message)
    replaced(house)
    house.deliver(message)

    assert (before, blamed) == ([], False)
    assert house.outlet.texts() == ["the answer"]


def test_a_message_is_sent_while_there_is_time_for_it(house: House) -> None:
    house.sending.cards = lambda: False
    house.sending.leaving.within(CALL_S + 60)
    message = house.owes(a_message(), "the answer")

    house.deliver(message)

    assert house.outlet.texts() == ["the answer"]


def test_a_card_goes_out_to_the_end(house: House) -> None:
    """Its calls have keys: the next sender repeats them, and nobody sees it."""
    house.sending.leaving.within(0.0)
    message = house.owes(a_message(), "the answer")

    house.deliver(message)

    assert house.outlet.seen == [Seen("card", "the answer")]


def test_the_next_sender_goes_on_at_the_next_part(house: House) -> None:
    """A long text is cut between two of its messages, never in one."""
    house.sending.cards = lambda: False
    house.outlet.before_next_call = lambda: house.sending.leaving.within(CALL_S - 1)
    message = house.owes(a_message(), "a" * LONG + "b" * LONG + "cc")

    house.deliver(message)
    before = house.outlet.texts()
    blamed = not uncounted(house, message)
    replaced(house)
    house.deliver(message)

    assert (before, blamed) == (["a" * LONG], False)
    assert house.outlet.texts() == ["a" * LONG, "b" * LONG, "cc"]


@pytest.mark.parametrize(("draining", "woken"), [(True, ["send"]), (False, [])])
def test_another_sender_is_woken_unless_this_one_would_fetch_it_again(
    house: House, draining: bool, woken: list[str]
) -> None:
    """While everything stops it still fetches, for cards; what it leaves waits for the next start."""
    house.sending.cards = lambda: False
    message = house.owes(a_message(), "the answer")
    house.wakes.take()

    def leave() -> None:
        house.sending.leaving.within(0.0)
        if draining:
            house.sending.draining.set()

    house.outlet.longest = 5
    house.outlet.before_next_call = leave
    house.deliver(message)

    assert house.outlet.texts() == ["the a"]
    assert house.wakes.take() == woken


def test_the_sooner_end_counts() -> None:
    now = 100.0
    leaving = Leaving(lambda: now)

    leaving.check(1e9)
    leaving.within(20.0)
    leaving.within(30.0)
    now += 9.0

    assert leaving.left_s() == 11.0
    leaving.check(11.0)
    with pytest.raises(Drained):
        leaving.check(11.5)
