"""What was said before: bounded when it is written, gone when it has expired."""

import math

import pytest

from app import keys
from app.context import MAX_BYTES, MAX_LINES, extended, recall
from app.message import Said
from app.redis import Store
from app.wire import decode_context

CONVERSATION = "dingtalk:bot:cid1:ann"


def test_a_conversation_without_a_past_has_none(store: Store) -> None:
    assert recall(store, CONVERSATION) == ()


def test_what_was_kept_is_recalled(store: Store) -> None:
    store.client.set(keys.context(CONVERSATION), extended((), "早上好", "hello"))

    assert recall(store, CONVERSATION) == (Said("user", "早上好"), Said("assistant", "hello"))


def test_the_newest_lines_stay_and_begin_alike_for_several_turns() -> None:
    """What moves at every turn is in no engine's cache."""
    history: tuple[Said, ...] = ()
    beginnings: list[str] = []
    for number in range(100):
        history = decode_context(extended(history, f"question {number}", f"answer {number}"))
        assert len(history) <= MAX_LINES
        assert history[-1].text == f"answer {number}"
        assert len(history) >= min(2 * (number + 1), 38)
        beginnings.append(history[0].text)

    assert len(set(beginnings)) == 1 + math.ceil((200 - MAX_LINES) / 14)


def test_the_newest_stays_if_it_has_room_by_itself() -> None:
    old = (Said("user", "x" * 20_000), Said("assistant", "yes"))

    history = decode_context(extended(old, "y" * (MAX_BYTES - 10_000), "no"))

    assert [line.text for line in history] == ["y" * (MAX_BYTES - 10_000), "no"]


@pytest.mark.parametrize("character", ["a", "汉", '"'])
def test_the_kept_bytes_are_bounded_and_questions_stay_with_their_answers(character: str) -> None:
    history: tuple[Said, ...] = ()
    for _ in range(30):
        stored = extended(history, character * 3000, "short")
        history = decode_context(stored)
        assert len(stored) <= MAX_BYTES

    assert [line.role for line in history] == ["user", "assistant"] * (len(history) // 2)
    assert history


def test_what_is_too_long_alone_is_not_kept() -> None:
    assert decode_context(extended((Said("user", "before"), Said("assistant", "yes")), "x" * MAX_BYTES, "no")) == ()


@pytest.mark.parametrize("stored", [b"{", b"[]", b'{"v":99,"lines":[]}'], ids=["broken", "no context", "a newer one"])
def test_what_cannot_be_read_is_left_out(store: Store, stored: bytes) -> None:
    """The conversation begins anew: a context is worth less than an answer."""
    store.client.set(keys.context(CONVERSATION), stored)

    assert recall(store, CONVERSATION) == ()
