"""What an engine counts of itself: a known set of requests adds up, and what it cannot know is not there."""

import dataclasses
import json
import threading
from typing import TYPE_CHECKING

import pytest
import torch

from app.errors import EngineStopped
from tests.workers.engine.asking import ask, first_piece, until
from tests.workers.engine.breaking import Breaking, outcome
from tests.workers.engine.computing import a_prompt
from tests.workers.engine.making import computed_by, making
from workers.engine.echo import EchoEngine
from workers.engine.figures import ENDS, VERSION, Figures
from workers.engine.interface import Handle, Result
from workers.engine.meter import FIRST_TOKEN_S, OUTPUT_TOKEN_S, Histogram, Meter

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def read(meter: Meter) -> Figures:
    return meter.figures(slots=1, running=0, waiting=0)


def test_a_time_is_counted_where_it_belongs() -> None:
    """A bound belongs to what is below it, as Prometheus has it (`le`)."""
    histogram = Histogram((0.1, 1.0))

    for seconds in (0.0, 0.1, 0.11, 1.0, 1.01, 100.0):
        histogram.add(seconds)

    spread = histogram.spread()
    assert (spread.bounds, spread.counts) == ((0.1, 1.0), (2, 2, 2))
    assert spread.sum_s == pytest.approx(102.22)


@pytest.mark.parametrize("bounds", [FIRST_TOKEN_S, OUTPUT_TOKEN_S])
def test_bounds_grow(bounds: tuple[float, ...]) -> None:
    assert sorted(set(bounds)) == list(bounds)


def test_the_course_of_a_request_is_timed() -> None:
    """0.3 s to the first token, then two more in 0.4 s: 0.2 s a token. The wait after the last one is nobody's."""
    now = [100.0]
    meter = Meter(lambda: now[0])
    course = meter.begin()

    course.prompt(7)
    for at in (100.3, 100.4, 100.7):
        now[0] = at
        course.token()
    now[0] = 200.0
    course.end("cancelled")

    figures = read(meter)
    assert (figures.prompt_tokens, figures.generated_tokens) == (7, 3)
    assert figures.ended == {"stop": 0, "length": 0, "cancelled": 1, "deadline": 0, "failed": 0}
    assert figures.first_token_s.sum_s == pytest.approx(0.3)
    assert figures.output_token_s.sum_s == pytest.approx(0.2)
    assert sum(figures.first_token_s.counts) == sum(figures.output_token_s.counts) == 1


def test_an_answer_without_a_second_token_has_no_time_a_token() -> None:
    meter = Meter()
    silent, short = meter.begin(), meter.begin()

    silent.end("deadline")
    short.token()
    short.end("stop")

    figures = read(meter)
    assert sum(figures.first_token_s.counts) == 1
    assert sum(figures.output_token_s.counts) == 0


def test_a_request_ends_once() -> None:
    """A reader may fail over the very end of an answer; and a server goes on for a moment after a cancel."""
    meter = Meter()
    course = meter.begin()

    course.token()
    course.end("stop")
    course.end("failed")
    course.token()

    assert sum(read(meter).ended.values()) == read(meter).ended["stop"] == 1
    assert read(meter).generated_tokens == 1


def test_the_end_may_tell_how_many_tokens_there_were() -> None:
    """A server puts several into one event, and says so at the end; never are tokens taken back."""
    now = [0.0]
    meter = Meter(lambda: now[0])
    several, fewer = meter.begin(), meter.begin()

    for course, said in ((several, 11), (fewer, 1)):
        now[0] += 1.0
        course.token()
        now[0] += 1.0
        course.token()
        course.end("stop", said)

    assert read(meter).generated_tokens == 11 + 2
    assert read(meter).output_token_s.sum_s == pytest.approx(1.0 / 10 + 1.0)


def test_many_threads_lose_nothing() -> None:
    meter = Meter()

    def work() -> None:
        for _ in range(500):
            course = meter.begin()
            course.prompt(3)
            course.token()
            course.token()
            course.end("length")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    figures = read(meter)
    assert (figures.prompt_tokens, figures.generated_tokens, figures.ended["length"]) == (12_000, 8_000, 4_000)
    assert sum(figures.first_token_s.counts) == sum(figures.output_token_s.counts) == 4_000


def test_the_plain_form_is_json_and_has_no_unknown() -> None:
    meter = Meter()
    meter.begin().end("stop")

    plain = json.loads(json.dumps(dataclasses.replace(read(meter), restarts=0).plain()))

    assert plain["version"] == VERSION
    assert plain["ended"] == {how: int(how == "stop") for how in ENDS}
    assert len(plain["first_token_s"]["counts"]) == len(plain["first_token_s"]["bounds"]) + 1
    assert plain["restarts"] == 0
    assert "cache_tokens" not in plain


def test_a_reader_that_fails_is_a_failed_request(small: "Loaded") -> None:
    class Broken(Handle):
        def emit(self, piece: str) -> None:
            raise ValueError("broken pipe")

    with making("slots", small) as make:
        engine = make()
        broken = engine.start([1, 2, 3], ask("", max_new_tokens=30), Broken())
        with pytest.raises(EngineStopped):
            broken.handle.result()

        assert engine.figures().ended == dict.fromkeys(ENDS, 0) | {"failed": 1}


@pytest.mark.parametrize("kind", ["slots", "paged"])
def test_a_restart_is_counted_and_those_in_flight_have_failed(small: "Loaded", kind: str) -> None:
    with making(kind, small) as make:
        engine = make(slots=2)
        running = [engine.start(a_prompt(small, 9, n), ask("", max_new_tokens=400)) for n in range(2)]
        for sequence in running:
            first_piece(sequence.handle)

        with Breaking(computed_by(engine, small), RuntimeError("a device error"), times=1):
            ends = [outcome(sequence.handle) for sequence in running]
        again = outcome(engine.start([5, 6], ask("")).handle)

        assert [type(end) for end in (*ends, again)] == [EngineStopped, EngineStopped, Result]
        figures = engine.figures()
        assert (figures.restarts, figures.ended["failed"], figures.ended["length"]) == (1, 2, 1)
        assert (figures.running, figures.cache_tokens_used) == (0, 0)


def test_steps_without_memory_are_counted(small: "Loaded") -> None:
    with making("slots", small) as make:
        engine = make(slots=2)
        prompts = [a_prompt(small, 120, n) for n in range(2)]
        with Breaking(computed_by(engine, small), NO_MEMORY, above_tokens=70) as breaking:
            running = [engine.start(prompt, ask("", max_new_tokens=3)) for prompt in prompts]
            results = [sequence.handle.result() for sequence in running]

        figures = engine.figures()
        assert figures.out_of_memory == breaking.raised > 0
        assert figures.restarts == 0
        assert figures.prompt_tokens == sum(result.prompt_tokens for result in results)  # what failed did not go in


@pytest.mark.parametrize("kind", ["slots", "paged"])
def test_the_cache_is_in_use_while_somebody_runs(small: "Loaded", kind: str) -> None:
    with making(kind, small) as make:
        engine = make(slots=2, max_tokens=512)
        running = engine.start(a_prompt(small, 60), ask("", max_new_tokens=400))
        first_piece(running.handle)

        during = engine.figures()
        running.handle.cancel()
        running.handle.result()

        assert during.cache_tokens == 2 * 512
        assert during.cache_tokens_used is not None
        assert 460 <= during.cache_tokens_used <= 512
        until(lambda: engine.figures().cache_tokens_used == 0)


def test_an_engine_that_was_closed_still_tells(small: "Loaded") -> None:
    with making("slots", small) as make:
        engine = make()
        handle = engine.start([5, 6, 7], ask("", max_new_tokens=400)).handle
        first_piece(handle)

        engine.close()

        assert engine.figures().ended["failed"] == 1
        assert (engine.figures().running, engine.figures().waiting) == (0, 0)


def test_echo_at_once_counts_too() -> None:
    """The load tests' engine answers in the thread of who asks, and many ask at the same time."""
    engine = EchoEngine(slots=4)

    threads = [threading.Thread(target=lambda: engine.submit(ask("one two three")).result()) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    figures = engine.figures()
    assert (figures.prompt_tokens, figures.generated_tokens, figures.ended["stop"]) == (60, 60, 20)
