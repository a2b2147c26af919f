"""What every engine that computes does, on every device: right tokens in any company, and failures that stay alone.

The tests of this page are run by those that import them, with the `small` model of their own folder: here on the CPU,
in tests/gpu on what is there.
"""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from app.errors import EngineStopped, RequestRejected
from tests.workers.engine.asking import ask, first_piece
from tests.workers.engine.making import Make, computed_by, making
from tests.workers.engine.reference import MOST_TIES, ties
from workers.engine.interface import Handle
from workers.engine.sequence import Sequence

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

LENGTHS = [(5, 30), (70, 12), (1, 20), (300, 8), (33, 40), (32, 33), (640, 5), (64, 16)]  # of prompt and answer


@pytest.fixture
def loaded(small: "Loaded") -> "Loaded":
    return small


@pytest.fixture(params=["slots", "paged"])
def make(request: pytest.FixtureRequest, loaded: "Loaded") -> Iterator[Make]:
    with making(request.param, loaded) as make:
        yield make


def a_prompt(loaded: "Loaded", length: int, seed: int = 0) -> list[int]:
    dice = random.Random(f"{length} {seed}")
    return [dice.randrange(100, loaded.vocabulary) for _ in range(length)]


def test_tokens_equal_one_by_one_generation_while_others_join_and_leave(loaded: "Loaded", make: Make) -> None:
    """Guards cache, positions, masks and pages: prompts longer than a step's share, and of a whole page's length."""
    engine = make(slots=3, max_tokens=700)
    prompts = [a_prompt(loaded, length) for length, _ in LENGTHS]

    def start(i: int) -> Sequence:
        return engine.start(prompts[i], ask("", max_new_tokens=LENGTHS[i][1]))

    running = [start(0), start(1)]
    leaving = engine.start(a_prompt(loaded, 50), ask("", max_new_tokens=600))
    first_piece(leaving.handle)
    running += [start(i) for i in range(2, len(LENGTHS))]
    leaving.handle.cancel()
    results = [sequence.handle.result() for sequence in running]
    counted = sum(
        ties(loaded, prompt, sequence.new, limit)
        for prompt, sequence, (_, limit) in zip(prompts, running, LENGTHS, strict=True)
    )

    assert leaving.handle.result().finish == "cancelled"
    assert [result.new_tokens for result in results] == [len(sequence.new) for sequence in running]
    assert counted <= MOST_TIES[loaded.model.dtype], f"{counted} ties: more than chance"


@pytest.mark.parametrize("prompt", [[], [10**6], [-1], [5] * 64], ids=["empty", "unknown", "negative", "too long"])
def test_a_bad_prompt_is_refused_and_harms_nobody(make: Make, prompt: list[int]) -> None:
    engine = make(max_tokens=64)
    other = engine.start([7, 8, 9], ask("", max_new_tokens=6))

    with pytest.raises(RequestRejected):
        engine.start(prompt, ask(""))

    assert other.handle.result().new_tokens == 6


def test_the_answer_is_limited_by_what_the_prompt_leaves(loaded: "Loaded", make: Make) -> None:
    engine = make(max_tokens=48)

    result = engine.start(a_prompt(loaded, 30), ask("", max_new_tokens=1000)).handle.result()

    assert (result.prompt_tokens, result.new_tokens, result.finish) == (30, 18, "length")


def test_a_reader_that_raises_ends_its_own_request_alone(make: Make) -> None:
    class Broken(Handle):
        def emit(self, piece: str) -> None:
            raise ValueError("broken pipe")

    engine = make()
    broken = engine.start([1, 2, 3], ask("", max_new_tokens=30), Broken())
    other = engine.start([7, 8, 9], ask("", max_new_tokens=40))

    with pytest.raises(EngineStopped):
        broken.handle.result()

    assert other.handle.result().new_tokens == 40
    assert engine.alive()


def test_numbers_that_overflow_end_their_own_request_alone(loaded: "Loaded", make: Make) -> None:
    """Half precision can overflow on one prompt; its neighbours have good numbers."""
    engine = make()

    def spoil(_: Any, __: Any, output: Any) -> Any:
        rows = output.logits.view(-1, loaded.vocabulary)
        if len(rows) == 2:  # both are writing; the one that began first is the first row
            rows[0] = float("nan")
        return output

    with computed_by(engine, loaded).register_forward_hook(spoil):
        first = engine.start([7, 8, 9], ask("", max_new_tokens=400))
        first_piece(first.handle)
        second = engine.start([4, 5, 6], ask("", max_new_tokens=20))
        with pytest.raises(RequestRejected, match="overflow"):
            first.handle.result()
        assert second.handle.result().new_tokens == 20

    assert ties(loaded, [4, 5, 6], second.new, 20) <= MOST_TIES[loaded.model.dtype]


def test_the_same_seed_gives_the_same_answer_in_any_company(loaded: "Loaded", make: Make) -> None:
    engine = make()
    prompt = a_prompt(loaded, 20)
    request = ask("", max_new_tokens=24, temperature=0.9, top_p=0.9, top_k=40, seed=7)

    alone = engine.start(prompt, request)
    alone.handle.result()
    others = [engine.start(a_prompt(loaded, 9, n), ask("", max_new_tokens=30, temperature=1.0)) for n in range(2)]
    in_company = engine.start(prompt, request)

    assert in_company.handle.result().text == alone.handle.result().text
    assert in_company.new == alone.new
    assert all(other.handle.result().new_tokens for other in others)


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (0, 1e-9)])
def test_a_draw_from_one_candidate_is_the_greedy_token(loaded: "Loaded", make: Make, top_k: int, top_p: float) -> None:
    engine = make()
    prompt = a_prompt(loaded, 12)

    drawn = engine.start(prompt, ask("", max_new_tokens=16, temperature=2.0, top_k=top_k, top_p=top_p))

    assert drawn.handle.result().new_tokens == 16
    assert ties(loaded, prompt, drawn.new, 16) <= MOST_TIES[loaded.model.dtype]


def test_more_candidates_than_the_vocabulary_are_all_of_it(loaded: "Loaded", make: Make) -> None:
    engine = make()

    result = engine.start([7, 8], ask("", max_new_tokens=5, temperature=1.0, top_k=10**6)).handle.result()

    assert result.new_tokens == 5
    assert engine.alive()
