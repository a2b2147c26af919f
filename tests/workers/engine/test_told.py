"""Everybody hears of the end at once, whatever hangs, and what is wrong with one request ends that one alone.

Nothing here measures time: a step hangs as long as the test wants, and who is told is told meanwhile.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from app.errors import EngineStopped, EngineUnavailable, RequestRejected
from tests.workers.engine.asking import ask, until
from tests.workers.engine.breaking import Hanging, outcome
from tests.workers.engine.making import Computing, Make, computed_by, making
from tests.workers.engine.tiny import as_loaded, tiny_llama
from workers.engine.figures import ENDS
from workers.engine.interface import Handle, Result
from workers.engine.meter import Meter
from workers.engine.paged import PagedEngine
from workers.engine.readers import Readers
from workers.engine.sequence import Answer, Sequence

if TYPE_CHECKING:
    from workers.engine.loading import Loaded


@pytest.fixture(scope="module")
def loaded() -> "Loaded":
    return as_loaded(tiny_llama())


@pytest.fixture(params=["slots", "paged"])
def make(request: pytest.FixtureRequest, loaded: "Loaded") -> Iterator[Make]:
    with making(request.param, loaded) as make:
        yield make


def one_that_runs_and_one_in_the_line(engine: Computing, hanging: Hanging) -> list[Handle]:
    """Of an engine with one slot, in a step that hangs."""
    running = engine.start([7, 8, 9], ask("", max_new_tokens=100)).handle
    hanging.wait()
    in_line = engine.start([1, 2], ask("", max_new_tokens=4)).handle
    hanging.next()
    until(lambda: engine.figures().waiting == 1 and not engine._intake.waiting)
    return [running, in_line]


def test_closing_tells_everybody_while_a_step_hangs(loaded: "Loaded", make: Make) -> None:
    """Who runs, who is in the line, who came a moment ago: a step takes seconds, and one that hangs for ever."""
    engine = make(slots=1)
    closing = threading.Thread(target=engine.close)

    with Hanging(computed_by(engine, loaded)) as hanging:
        handles = one_that_runs_and_one_in_the_line(engine, hanging)
        handles.append(engine.start([3, 4], ask("", max_new_tokens=4)).handle)
        closing.start()
        ends = [outcome(handle) for handle in handles]  # the step hangs all the while

    closing.join(60)
    assert [type(end) for end in ends] == [EngineStopped] * 3
    assert engine.figures().ended == dict.fromkeys(ENDS, 0) | {"failed": 3}  # by two threads, counted once
    assert not engine.alive()
    assert not engine._intake.inside()
    with pytest.raises(EngineStopped):
        engine.start([1, 2], ask(""))


@pytest.mark.parametrize("make", ["paged"], indirect=True)
def test_nobody_waits_for_a_library_that_hangs_in_its_death(loaded: "Loaded", make: Make) -> None:
    """Who is in the line or comes has done nothing: it is told to come again, which counts for no death."""
    engine = make(slots=1)
    assert isinstance(engine, PagedEngine)

    with Hanging(loaded.model) as hanging:
        running, in_line = one_that_runs_and_one_in_the_line(engine, hanging)
        engine._batcher._manager.background_thread_status.record_fatal_error(RuntimeError("the device is gone"))
        ends = [type(outcome(running)), type(outcome(in_line))]
        with pytest.raises(EngineUnavailable):
            engine.start([1, 2], ask(""))
        assert engine.alive()

    assert ends == [EngineStopped, EngineUnavailable]
    until(lambda: isinstance(told(engine), Result))  # it begins anew as soon as the step has ended
    assert (engine.figures().restarts, engine.figures().ended["failed"]) == (1, 2)


def told(engine: Computing) -> object:
    try:
        return outcome(engine.start([1, 2], ask("")).handle)
    except EngineUnavailable as exc:
        return exc


def odd(engine: Computing, **values: Any) -> Sequence:
    """A request that came in with a value that nobody refused."""
    sequence = engine._intake.make([1, 2], ask("", max_new_tokens=4), None)
    sequence.request = replace(sequence.request, **values)
    engine._intake.enter(sequence)
    return sequence


def test_one_that_cannot_stand_in_the_line_is_told_alone(loaded: "Loaded", make: Make) -> None:
    """All of them are fetched together, after the step that hangs: those behind it must not be lost."""
    engine = make(slots=2)
    with Hanging(computed_by(engine, loaded)) as hanging:
        running = engine.start([7, 8, 9], ask("", max_new_tokens=60))
        hanging.wait()
        wrong = odd(engine, priority=10**400)
        behind = [engine.start([n, n], ask("", max_new_tokens=4)) for n in range(3)]

    assert isinstance(outcome(wrong.handle), RequestRejected)
    assert [each.handle.result().new_tokens for each in (running, *behind)] == [60, 4, 4, 4]
    assert engine.figures().restarts == 0


@pytest.mark.parametrize("make", ["paged"], indirect=True)
@pytest.mark.parametrize("values", [{"temperature": 10**400}, {"temperature": "warm"}, {"seed": 1.5}])
def test_one_that_the_library_cannot_even_be_asked_is_told_alone(make: Make, values: dict[str, Any]) -> None:
    engine = make(slots=2)
    running = engine.start([7, 8, 9], ask("", max_new_tokens=60))

    wrong = odd(engine, **values)
    behind = engine.start([1, 2], ask("", max_new_tokens=4))

    assert isinstance(outcome(wrong.handle), RequestRejected)
    assert [each.handle.result().new_tokens for each in (running, behind)] == [60, 4]
    assert (engine.figures().restarts, engine.alive()) == (0, True)


class NoBegin(Handle):
    def begin(self) -> None:
        raise ValueError("broken pipe")


class NoCancelled(Handle):
    @property
    def cancelled(self) -> bool:
        raise ValueError("broken pipe")


@pytest.mark.parametrize("broken", [NoBegin, NoCancelled])
def test_a_reader_that_raises_when_it_is_looked_at_ends_alone(make: Make, broken: Callable[[], Handle]) -> None:
    engine = make(slots=2)
    other = engine.start([7, 8, 9], ask("", max_new_tokens=60))

    wrong = engine.start([1, 2], ask("", max_new_tokens=400), broken())

    assert isinstance(outcome(wrong.handle), EngineStopped)
    assert other.handle.result().new_tokens == 60
    assert engine.figures().ended == dict.fromkeys(ENDS, 0) | {"failed": 1, "length": 1}
    assert engine.figures().restarts == 0


class Noting(Handle):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []

    def emit(self, piece: str) -> None:
        self.told.append(piece)

    def finish(self, result: Result) -> None:
        self.told.append(result)

    def fail(self, error: Exception) -> None:
        self.told.append(error)


def a_sequence(meter: Meter, handle: Handle) -> Sequence:
    return Sequence(
        request=ask(""),
        handle=handle,
        prompt=[1, 2],
        max_new=2,
        ends_at_s=None,
        answer=Answer(lambda tokens: "x" * len(tokens), ()),
        course=meter.begin(),
    )


@pytest.mark.parametrize("error_first", [True, False])
def test_who_was_told_its_end_hears_nothing_more(error_first: bool) -> None:
    """One thread closes the engine while the other ends its step."""
    meter, handle, removed = Meter(), Noting(), list[Sequence]()
    readers, sequence = Readers(frozenset(), remove=removed.append), a_sequence(meter, handle)
    error = EngineStopped("closed")

    def write() -> None:
        readers.give(sequence, 5)
        readers.give(sequence, 6)

    def close() -> None:
        readers.tell([sequence], error)

    for do in (close, write) if error_first else (write, close):
        do()

    assert removed == [sequence]  # by the engine's thread, whoever told it
    ended = meter.figures(slots=1, running=0, waiting=0).ended
    if error_first:
        assert handle.told == [error]
        assert ended == dict.fromkeys(ENDS, 0) | {"failed": 1}
    else:
        assert [type(each) for each in handle.told] == [str, str, Result]
        assert ended == dict.fromkeys(ENDS, 0) | {"length": 1}
