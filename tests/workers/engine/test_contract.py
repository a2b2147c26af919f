"""What every engine does: the same tests for `echo`, `openai` with a server that echoes, and `slots` and `paged` on a
small random model.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from app.errors import EngineStopped, RequestRejected
from tests.workers.engine.asking import ask, first_piece, until
from tests.workers.engine.openai.model_server import MODEL, model_server
from workers.engine.echo import EchoEngine
from workers.engine.figures import ENDS, Spread
from workers.engine.interface import Engine, Request
from workers.engine.openai.engine import OpenAIEngine

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

LONG = "Tell me a long story about a train: " + "one two three four five six seven eight nine ten " * 12

ENDLESS = 3500  # tokens: nobody waits for the last one of them

MakeEngine = Callable[[int], Engine]


@pytest.fixture(params=["echo", "slots", "paged", "openai"])
def make(request: pytest.FixtureRequest) -> Iterator[MakeEngine]:
    """Makes engines of one kind with so many slots. Echo speaks 25 tokens a second, so that it can be interrupted."""
    if request.param in ("slots", "paged"):
        from tests.workers.engine.making import making

        small: Loaded = request.getfixturevalue("small")
        with making(request.param, small) as make_computing:
            yield lambda slots: make_computing(slots=slots, max_tokens=4096)
        return
    with ExitStack() as made:
        if request.param == "openai":
            url = made.enter_context(model_server()).url("echo-25")
            yield lambda slots: made.enter_context(
                closing(OpenAIEngine([url], model=MODEL, slots=slots, max_tokens=2048))
            )
        else:
            yield lambda slots: made.enter_context(closing(EchoEngine(slots, tokens_per_s=25)))


def test_the_pieces_joined_are_the_result(make: MakeEngine) -> None:
    handle = make(2).submit(ask("Say hello to 北京 😀", max_new_tokens=12))

    pieces = list(handle)

    result = handle.result()
    assert result.text == "".join(pieces)
    assert result.text
    assert result.finish in ("stop", "length")
    assert result.prompt_tokens > 0
    assert result.new_tokens > 0


def test_more_requests_than_slots_are_all_answered(make: MakeEngine) -> None:
    engine = make(2)

    handles = [engine.submit(ask(f"Count to {n}", max_new_tokens=4)) for n in range(5)]

    assert all(handle.result().text for handle in handles)


def test_a_cancelled_request_ends_with_its_text_so_far(make: MakeEngine) -> None:
    handle = make(1).submit(ask(LONG, max_new_tokens=ENDLESS))
    begun = first_piece(handle)

    handle.cancel()
    handle.cancel()

    result = handle.result()
    assert result.finish == "cancelled"
    assert result.text.startswith(begun)
    assert result.new_tokens < ENDLESS


def test_a_request_cancelled_while_it_waits_ends_without_text(make: MakeEngine) -> None:
    """It must not wait for a slot only to hear that it has ended."""
    engine = make(1)
    running = engine.submit(ask(LONG, max_new_tokens=ENDLESS))
    waiting = engine.submit(ask("second", max_new_tokens=4))
    first_piece(running)

    waiting.cancel()

    assert (waiting.result().finish, waiting.result().text) == ("cancelled", "")
    assert not running.cancelled
    running.cancel()
    assert running.result().finish == "cancelled"


def test_at_the_deadline_what_is_there_is_the_result(make: MakeEngine) -> None:
    engine = make(1)
    running = engine.submit(ask(LONG, max_new_tokens=ENDLESS, deadline_s=0.4))
    waiting = engine.submit(ask(LONG, max_new_tokens=ENDLESS, deadline_s=0.05))

    assert (waiting.result().finish, waiting.result().text) == ("deadline", "")
    assert running.result().finish == "deadline"


def test_a_stop_string_ends_the_answer_and_does_not_show(make: MakeEngine) -> None:
    question = "Say: The capital of France is Paris."
    engine = make(1)
    whole = engine.submit(ask(question, max_new_tokens=20)).result().text
    stop = whole[len(whole) // 2 :][:4]

    handle = engine.submit(ask(question, max_new_tokens=20, stop=(stop,)))
    pieces = list(handle)

    assert "".join(pieces) == whole[: whole.index(stop)]
    assert handle.result().finish == "stop"
    assert handle.result().text == "".join(pieces)


def test_priority_goes_first_then_arrival(make: MakeEngine) -> None:
    engine = make(1)
    running = engine.submit(ask(LONG, max_new_tokens=ENDLESS))
    first_piece(running)
    early, late, urgent = (
        engine.submit(ask(LONG, max_new_tokens=ENDLESS, priority=priority)) for priority in (0, 0, 5)
    )

    for following, still_waiting in [(urgent, (early, late)), (early, (late,)), (late, ())]:
        running.cancel()
        first_piece(following)  # it holds the only slot now, until it is cancelled
        for handle in still_waiting:
            with pytest.raises(TimeoutError):
                handle.next_piece(0)
        running = following
    running.cancel()


def test_close_wakes_every_waiter(make: MakeEngine) -> None:
    engine = make(1)
    handles = [engine.submit(ask(LONG, max_new_tokens=ENDLESS)) for _ in range(3)]
    first_piece(handles[0])

    engine.close()

    for handle in handles:
        with pytest.raises(EngineStopped):
            handle.result()
    assert not engine.alive()
    with pytest.raises(EngineStopped):
        engine.submit(ask("hello"))


@pytest.mark.parametrize(
    "bad",
    [
        Request(messages=(), max_new_tokens=4),
        Request(messages=(("robot", "x"),), max_new_tokens=4),
        ask("x", max_new_tokens=0),
        ask("x", temperature=-1.0),
        ask("x", temperature=float("nan")),
        ask("x", top_p=0.0),
        ask("x", top_k=-1),
        ask("x", stop=("",)),
        ask("x", seed=-1),
        ask("x", seed=1.5),
        ask("x", temperature=4e38),
        ask("x", temperature=1e-38),
        ask("x", temperature=None),
        ask("x", top_k=10**400),
        ask("x", repetition_penalty=1e-40),
        ask("x", min_new_tokens=9, max_new_tokens=8),
        ask("x", max_new_tokens=2.5),  # type: ignore[arg-type]
        ask("x", stop=None),
        ask("x", stop=("x" * 1001,)),
        ask("x", deadline_s=10**400),
        ask("x", priority=10**400),
        ask("x", priority=None),
        ask("x", adapter="a"),
    ],
)
def test_a_request_that_can_never_run_is_refused(make: MakeEngine, bad: Request) -> None:
    engine = make(1)

    with pytest.raises(RequestRejected):
        engine.submit(bad).result()  # that an adapter is not there, only a server can say

    assert engine.alive()


@pytest.mark.parametrize("more", [{"repetition_penalty": 1.2}, {"min_new_tokens": 2}, {"processors": ("some",)}])
@pytest.mark.parametrize("make", ["paged", "openai"], indirect=True)
def test_what_only_slots_does_is_refused_by_name(make: MakeEngine, more: dict[str, object]) -> None:
    with pytest.raises(RequestRejected, match=next(iter(more))):
        make(1).submit(ask("x", **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", ["paged", "echo"], indirect=True)
def test_an_engine_without_adapters_says_so(make: MakeEngine) -> None:
    """Nobody shall think that it answered with one."""
    with pytest.raises(RequestRejected, match="adapter: not with this engine"):
        make(1).submit(ask("x", adapter="french"))


def test_half_a_character_is_no_reason_to_fail(make: MakeEngine) -> None:
    """JSON can bring one."""
    engine = make(1)
    messages = (("user", "half \ud83d of it"),)

    assert engine.submit(Request(messages=engine.fit(messages, 4), max_new_tokens=4)).result().finish


def test_a_conversation_that_fits_stays_as_it_is(make: MakeEngine) -> None:
    messages = (("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "How are you?"))

    assert make(1).fit(messages, 16) == messages


def test_figures_add_up_after_a_known_set_of_requests(make: MakeEngine) -> None:
    """Two are answered, one is cancelled while it runs; two never run: one is cancelled, one's time is over."""
    engine = make(1)
    answered = [engine.submit(ask(f"Say {n} words", max_new_tokens=5)).result() for n in range(2)]
    running = engine.submit(ask(LONG, max_new_tokens=ENDLESS))
    first_piece(running)
    waiting = [engine.submit(ask("x", max_new_tokens=4)), engine.submit(ask("x", max_new_tokens=4, deadline_s=0.05))]
    waiting[1].result()
    until(lambda: engine.figures().waiting == 1)
    during = engine.figures()
    waiting[0].cancel()
    running.cancel()
    begun = [*answered, running.result()]
    until(lambda: engine.figures().running == 0)  # a connection is closed after its reader heard of the end

    after = engine.figures()
    reasons = [result.finish for result in (*begun, *(handle.result() for handle in waiting))]
    assert (during.slots, during.running) == (1, 1)
    assert after.waiting == 0
    assert after.ended == {how: reasons.count(how) for how in ENDS}  # type: ignore[arg-type]
    assert (after.ended["cancelled"], after.ended["deadline"], after.ended["failed"]) == (2, 1, 0)
    assert after.prompt_tokens + (after.reused_tokens or 0) == sum(result.prompt_tokens for result in begun)
    assert after.generated_tokens == sum(result.new_tokens for result in begun)
    assert of(after.first_token_s) == len(begun)
    assert of(after.output_token_s) == sum(result.new_tokens > 1 for result in begun)
    assert after.prompt_tokens >= during.prompt_tokens > 0


@pytest.mark.parametrize(
    ("make", "known"),
    [
        ("slots", {"reused_tokens", "cache_tokens", "cache_tokens_used", "evictions", "restarts", "out_of_memory"}),
        ("paged", {"cache_tokens", "cache_tokens_used", "restarts", "out_of_memory"}),
        ("openai", set()),
        ("echo", set()),
    ],
    indirect=["make"],
)
def test_what_an_engine_cannot_know_is_not_there(make: MakeEngine, known: set[str]) -> None:
    """A server far away has a cache too, and a 0 would say that it is empty."""
    plain = make(1).figures().plain()

    everybodys = {"version", "slots", "running", "waiting", "prompt_tokens", "generated_tokens", "ended"}
    assert set(plain) == everybodys | {"first_token_s", "output_token_s"} | known


def of(spread: Spread) -> int:
    """How many times are in it."""
    assert len(spread.counts) == len(spread.bounds) + 1
    assert min(spread.counts) >= 0
    assert spread.sum_s >= 0
    return sum(spread.counts)
