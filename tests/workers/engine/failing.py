"""What every engine that computes does when its device errs: it begins anew with its weights, or says that it cannot.

The tests of this page are run by those that import them, as those of `computing`.
"""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from app.errors import EngineStopped, SwitchyardError
from tests.workers.engine.asking import ask, first_piece, until
from tests.workers.engine.breaking import Breaking, outcome
from tests.workers.engine.computing import a_prompt
from tests.workers.engine.making import Computing, Make, computed_by, making
from tests.workers.engine.reference import MOST_TIES, ties
from workers.engine.interface import Result
from workers.engine.restarts import RESTARTS

if TYPE_CHECKING:
    from workers.engine.loading import Loaded


@pytest.fixture
def loaded(small: "Loaded") -> "Loaded":
    return small


@pytest.fixture(params=["slots", "paged"])
def make(request: pytest.FixtureRequest, loaded: "Loaded") -> Iterator[Make]:
    with making(request.param, loaded) as make:
        yield make


def told(engine: Computing, prompt: list[int]) -> Result | SwitchyardError:
    """How a request ended, or was refused."""
    try:
        return outcome(engine.start(prompt, ask("")).handle)
    except EngineStopped as exc:
        return exc


def test_those_in_flight_are_told_and_the_weights_are_kept(loaded: "Loaded", make: Make) -> None:
    """A person's turn is done again at once; loading the model again would take minutes."""
    engine = make(slots=2)
    weights = [parameter.data_ptr() for parameter in loaded.model.parameters()]
    prompts = [a_prompt(loaded, 9, n) for n in range(3)]
    running = [engine.start(prompt, ask("", max_new_tokens=400)) for prompt in prompts[:2]]
    for sequence in running:
        first_piece(sequence.handle)
    in_line = engine.start(prompts[2], ask("", max_new_tokens=8))

    with Breaking(computed_by(engine, loaded), RuntimeError("a device error"), times=1):
        ends = [outcome(sequence.handle) for sequence in running]

    assert [type(end) for end in ends] == [EngineStopped, EngineStopped]
    assert in_line.handle.result().new_tokens == 8  # it was not in it: it keeps its place in the line
    assert ties(loaded, prompts[2], in_line.new, 8) <= MOST_TIES[loaded.model.dtype]
    assert engine.alive()
    assert [parameter.data_ptr() for parameter in loaded.model.parameters()] == weights


def test_an_engine_that_restarts_do_not_help_gives_up_and_tells_everybody(loaded: "Loaded", make: Make) -> None:
    """Its process then leaves, and the supervisor starts another."""
    engine = make(slots=1)

    with Breaking(computed_by(engine, loaded), RuntimeError("the device is gone")):
        ends = [told(engine, a_prompt(loaded, 5, n)) for n in range(RESTARTS + 4)]

        assert {type(end) for end in ends} == {EngineStopped}
        until(lambda: not engine.alive())
    with pytest.raises(EngineStopped):
        engine.submit(ask("Hi"))


def test_deaths_that_are_far_apart_are_mended_for_ever(loaded: "Loaded", make: Make) -> None:
    now = [0.0]
    engine = make(slots=1, clock=lambda: now[0])

    for _ in range(RESTARTS + 2):
        with Breaking(computed_by(engine, loaded), RuntimeError("now and then"), times=1):
            assert isinstance(outcome(engine.start([5, 6], ask("")).handle), EngineStopped)
        assert isinstance(outcome(engine.start([5, 6], ask("")).handle), Result)
        now[0] += 61.0

    assert engine.alive()


def test_a_request_submitted_to_a_dying_engine_always_hears_of_its_end(loaded: "Loaded", make: Make) -> None:
    """Also what is handed over between a thread's last look at its arrivals and its end."""
    engine = make(slots=4)
    ends: list[Result | SwitchyardError] = []
    refused = threading.Event()

    def ask_on() -> None:
        while not refused.is_set():
            try:
                handle = engine.start([5, 6, 7], ask("", max_new_tokens=3)).handle
            except EngineStopped:
                refused.set()
                return
            ends.append(outcome(handle))

    threads = [threading.Thread(target=ask_on) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: any(isinstance(end, Result) for end in list(ends)))
    with Breaking(computed_by(engine, loaded), RuntimeError("the device is gone")):
        assert refused.wait(60), "it never gave up"
        for thread in threads:
            thread.join(60)

    assert not any(thread.is_alive() for thread in threads)
    assert {type(end) for end in ends} == {Result, EngineStopped}
