"""The engine of the load and failure tests: cheap, exact, and as slow as it is told to be."""

import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.engine.asking import ask
from workers.engine.echo import EchoEngine, split

MakeEcho = Callable[[int, float], EchoEngine]


@pytest.fixture
def make_echo() -> Iterator[MakeEcho]:
    made: list[EchoEngine] = []

    def make(slots: int, tokens_per_s: float) -> EchoEngine:
        made.append(EchoEngine(slots, tokens_per_s))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text


def test_a_token_is_a_word_with_its_blanks_or_one_cjk_character() -> None:
    assert split("  Hello big world, 你好 x\n") == ["  Hello", " big", " world,", " 你", "好", " x", "\n"]


@pytest.mark.parametrize("text", ["", "  x  \n", "a\u0000b", "word " * 20_000])
def test_the_answer_is_the_last_question_unchanged(make_echo: MakeEcho, text: str) -> None:
    """Nothing is cut off: failure tests find their messages again by their text."""
    engine = make_echo(1, 0)

    result = engine.submit(ask(text, max_new_tokens=1)).result()

    assert (result.text, result.finish) == (text, "stop")


def test_an_answer_takes_its_tokens_by_the_rate(make_echo: MakeEcho) -> None:
    engine = make_echo(4, 40)
    began_s = time.monotonic()

    handles = [engine.submit(ask("one two three four five six seven eight")) for _ in range(4)]

    assert [handle.result().text for handle in handles] == ["one two three four five six seven eight"] * 4
    assert time.monotonic() - began_s >= 8 / 40


def test_slots_are_held_like_a_real_engine(make_echo: MakeEcho) -> None:
    """Two requests at once, then the other two: twice the time of one."""
    engine = make_echo(2, 50)
    began_s = time.monotonic()

    handles = [engine.submit(ask("one two three four five")) for _ in range(4)]

    assert all(handle.result().finish == "stop" for handle in handles)
    assert time.monotonic() - began_s >= 2 * 5 / 50


def test_hundreds_of_running_requests_cost_little(make_echo: MakeEcho) -> None:
    """The engine must leave the CPU to what is measured around it."""
    engine = make_echo(256, 10)
    began_cpu_s = time.process_time()

    handles = [engine.submit(ask("one two three four five six seven eight nine ten")) for _ in range(256)]
    assert all(handle.result().new_tokens == 10 for handle in handles)

    assert time.process_time() - began_cpu_s < 0.7  # of one second of answers; a busy loop takes all of it
