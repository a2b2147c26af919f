"""An answer is shown while it is written: often enough to be alive, seldom enough for the platform."""

import time
from contextlib import ExitStack

import pytest

from app.drafts import Drafts
from app.errors import LeaseLost
from tests.samples import a_message
from tests.workers.desk import House
from workers.typing import SHARE_FOR_UPDATES, Typing

WORDS = "one two three four five six seven eight nine ten"


def typing(
    house: House, *, enabled: bool = True, least_interval_s: float = 0.05, calls_per_s: float = 1000.0
) -> Typing:
    return Typing(
        Drafts(house.store),
        house.wakes.wake,
        enabled=enabled,
        least_interval_s=least_interval_s,
        calls_per_s=calls_per_s,
    )


def test_drafts_are_paced(house: House) -> None:
    """Forty tokens are not forty calls."""
    house.speaks_at(40.0)
    house.desk.typing = typing(house, least_interval_s=0.1)
    message = house.gets(a_message(text=" ".join([WORDS] * 4)))

    began = time.monotonic()
    house.turn(message)
    took_s = time.monotonic() - began

    drafts = house.wakes.take().count("send") - 1  # the last one is for the answer
    assert 1 <= drafts <= took_s / 0.1 + 1


def test_the_first_draft_says_that_somebody_is_thinking(house: House) -> None:
    """It is there before the first word is."""
    message = house.gets(a_message())
    shown: list[bytes] = []

    def look(queue: str, conversation: str, /) -> None:
        shown.append(house.draft(message)[b"text"])

    house.desk.typing = Typing(Drafts(house.store), look, enabled=True, least_interval_s=60.0, calls_per_s=20.0)

    house.turn(message)

    assert shown == [house.wording.say("thinking").encode()]


def test_without_cards_nothing_is_typed(house: House) -> None:
    house.desk.typing = typing(house, enabled=False)
    message = house.gets(a_message())

    house.turn(message)

    assert house.wakes.take() == ["send"]
    assert house.draft(message) == {}


def test_the_more_answers_type_the_slower_each(house: House) -> None:
    """The platform's calls last for all, with a share kept for creating and finishing."""
    message = house.gets(a_message())
    held = house.take(message)
    pace = typing(house, least_interval_s=0.8, calls_per_s=20.0)

    alone = pace.interval_s()
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(pace.typist(held, message.address))
        crowded = pace.interval_s()

    assert (alone, crowded, pace.interval_s()) == (0.8, 60 / (20.0 * SHARE_FOR_UPDATES), 0.8)


def test_an_answer_takes_its_draft_away(house: House) -> None:
    """Nothing is typed over a final answer."""
    house.speaks_at(100.0)
    message = house.gets(a_message(text=WORDS))

    house.turn(message)

    assert house.draft(message) == {}
    assert house.texts(message) == [WORDS]


def test_a_late_draft_is_refused_after_the_commit(house: House) -> None:
    message = house.gets(a_message())
    held = house.take(message)
    house.boxes.inbox.commit(held)

    with house.desk.typing.typist(held, message.address) as typist, pytest.raises(LeaseLost):
        typist.show("too late")

    assert house.draft(message) == {}


def test_the_draft_of_a_second_attempt_replaces_the_first(house: House) -> None:
    """It never mixes the two, and its version is the higher one."""
    message = house.gets(a_message())
    house.desk.typing.show(house.take(message), message.address, "first attempt, long")
    house.expire(message)

    house.desk.typing.show(house.take(message), message.address, "second")

    draft = house.draft(message)
    assert (draft[b"text"], draft[b"n"]) == (b"second", b"2")
