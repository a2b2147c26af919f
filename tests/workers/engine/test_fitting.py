"""A conversation is trimmed from its oldest end until the answer fits too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestRejected
from workers.engine.fitting import Messages, fit_messages, shorten


def by_words(messages: Messages) -> int:
    return sum(len(text.split()) + 1 for _, text in messages)


def fit(messages: Messages, limit_tokens: int, max_new_tokens: int = 4) -> Messages:
    return fit_messages(messages, limit_tokens=limit_tokens, max_new_tokens=max_new_tokens, measure=by_words)


def test_what_fits_stays_as_it_is() -> None:
    messages = (("system", "be kind"), ("user", "hello you"))

    assert fit(messages, limit_tokens=100) == messages


def test_the_oldest_go_first_and_the_system_message_stays() -> None:
    old = (("user", "one two three"), ("assistant", "four five six"))
    new = (("user", "seven eight"), ("assistant", "nine"), ("user", "ten"))

    fitted = fit((("system", "be kind"), *old, *new), limit_tokens=16)

    assert fitted == (("system", "be kind"), *new)


def test_an_answer_does_not_stay_without_its_question() -> None:
    messages = (("user", "one two three four"), ("assistant", "five"), ("user", "six"))

    assert fit(messages, limit_tokens=10) == (("user", "six"),)


def test_what_is_left_begins_alike_for_several_turns() -> None:
    """What moves at every turn is in no engine's cache. A quarter of the room at most stays free for that."""
    messages: Messages = (("system", "be kind"),)
    beginnings = []
    for turn in range(100):
        messages += (("user", f"question {turn} of many"), ("assistant", f"answer {turn}"))
        fitted = fit((*messages, ("user", "and now")), limit_tokens=84)
        beginnings.append(fitted[1])
        assert fitted[-1] == ("user", "and now")
        if fitted[1:] != (*messages[1:], ("user", "and now")):
            assert by_words(fitted) > 80 * 3 / 4 - 8

    assert len(set(beginnings)) <= 1 + 100 * 8 / (80 / 4)  # eight words a turn, a fourth of the room at a time


def test_a_last_message_that_is_too_long_loses_its_middle() -> None:
    text = " ".join(str(n) for n in range(1000))

    ((_, fitted),) = fit((("user", text),), limit_tokens=30)

    assert fitted.startswith("0 1 2 ")
    assert fitted.endswith(" 998 999")
    assert "…" in fitted


def test_a_long_answer_limit_takes_at_most_half() -> None:
    """Otherwise a wrong setting would leave no prompt at all."""
    messages = (("user", "a b c"),)

    assert fit(messages, limit_tokens=10, max_new_tokens=1000) == messages


def test_a_system_message_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(RequestRejected):
        fit((("system", "a b c d e f g h i j"), ("user", "hello")), limit_tokens=8)


@given(
    texts=st.lists(st.text("ab ", max_size=40), min_size=1, max_size=9),
    system=st.booleans(),
    limit=st.integers(16, 60),
)
def test_what_is_left_fits_and_keeps_first_and_last(texts: list[str], system: bool, limit: int) -> None:
    turns = tuple(("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))
    messages = ((("system", "s"),) if system else ()) + turns

    fitted = fit(messages, limit_tokens=limit)

    assert by_words(fitted) <= limit - 4
    assert fitted[0][0] == messages[0][0] or not system
    assert fitted[-1] == messages[-1] or "…" in fitted[-1][1]


def test_shortening_keeps_both_ends() -> None:
    assert shorten("abcdefgh", 3).split("\n…\n") == ["ab", "h"]
    assert shorten("abc", 3) == "abc"
