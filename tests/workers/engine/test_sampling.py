"""Which tokens may be drawn, how often, and that a row's neighbours change nothing."""

import random
from typing import Any

import pytest
import torch

from app.errors import RequestRejected
from tests.workers.engine.asking import ask
from workers.engine import processors
from workers.engine.interface import Handle, Request
from workers.engine.sampling import CANDIDATES, candidates, draw, pick
from workers.engine.sequence import Answer, Sequence

SCORES = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
EOS = 1


def a_sequence(*, prompt: tuple[int, ...] = (0,), new: tuple[int, ...] = (), **asked: Any) -> Sequence:
    request = ask("", **asked)
    answer = Answer(lambda tokens: "", ())
    return Sequence(
        request=request, handle=Handle(), prompt=list(prompt), new=list(new), max_new=8, ends_at_s=None, answer=answer
    )


def draws(scores: torch.Tensor, count: int, **asked: Any) -> torch.Tensor:
    """So many draws from one row, each with its own throw of the dice."""
    dice = random.Random(1)
    requests = [ask("", temperature=1.0, **asked)] * count
    return torch.tensor(draw(scores.expand(count, -1), requests, [dice.random() for _ in range(count)]))


def allowed(scores: torch.Tensor, request: Request) -> set[int]:
    best, tokens = scores[None].topk(len(scores))
    return set(tokens[candidates(best, scores[None].logsumexp(dim=-1), [request]) > 0].tolist())


@pytest.mark.parametrize(
    ("top_p", "top_k", "expected"),
    [(1.0, 0, {0, 1, 2, 3}), (1.0, 2, {1, 3}), (0.6, 0, {1, 3}), (0.01, 0, {1}), (0.9, 3, {1, 2, 3}), (0.5, 2, {1})],
)
def test_top_k_then_top_p_choose_the_candidates(top_p: float, top_k: int, expected: set[int]) -> None:
    assert allowed(SCORES, ask("", top_p=top_p, top_k=top_k)) == expected
    assert set(draws(SCORES, 400, top_p=top_p, top_k=top_k).tolist()) == expected


def test_a_flat_distribution_is_not_cut_at_the_first_candidates() -> None:
    """The quick look at the best few must not change what top_p means."""
    found = draws(torch.zeros(4 * CANDIDATES), 600, top_p=0.5)

    assert len(set(found.tolist())) > CANDIDATES
    assert found.max() < 4 * CANDIDATES


def test_many_candidates_of_top_k_are_all_there() -> None:
    assert len(set(draws(torch.zeros(2000), 3000, top_k=600).tolist())) > CANDIDATES


@pytest.mark.parametrize("asked", [{}, {"top_p": 0.9999}, {"top_k": 4}], ids=["all", "top_p", "top_k"])
def test_tokens_come_as_often_as_their_probability_says(asked: dict[str, Any]) -> None:
    shares = torch.bincount(draws(SCORES, 8000, **asked), minlength=4) / 8000

    assert torch.allclose(shares, SCORES.exp(), atol=0.03)


def test_the_ends_of_the_dice_draw_tokens_that_may_be_drawn() -> None:
    """A sum that is rounded must not point behind the last candidate, nor at one of no probability."""
    scores = torch.tensor([0.0, -float("inf"), 1.0, -float("inf")]).expand(4, -1)

    found = draw(
        scores, [ask("", temperature=1.0)] * 2 + [ask("", temperature=1.0, top_p=0.9)] * 2, [0.0, 1 - 2**-53] * 2
    )

    assert set(found) <= {0, 2}


def test_a_low_temperature_takes_the_best() -> None:
    assert draw(SCORES.expand(50, -1), [ask("", temperature=0.01)] * 50, [n / 50 for n in range(50)]) == [1] * 50


def test_the_same_seed_draws_the_same_whatever_the_neighbours_ask_for() -> None:
    torch.manual_seed(2)
    logits = torch.randn(6, 900)
    asked: list[dict[str, Any]] = [
        {"temperature": 0.8, "top_p": 0.9, "seed": 4},
        {},
        {"temperature": 1.5, "seed": 5},
        {"temperature": 1.0, "top_k": 40, "repetition_penalty": 1.3, "seed": 6},
        {"temperature": 3.0, "top_p": 0.99, "seed": 7},
        {"temperature": 1.0, "top_k": 500, "top_p": 0.5, "seed": 8},
    ]

    together = pick(logits, [a_sequence(**one) for one in asked])
    alone = [pick(logits[i : i + 1], [a_sequence(**one)])[0] for i, one in enumerate(asked)]

    assert together == alone
    assert together[1] == int(logits[1].argmax())


def test_a_step_that_is_done_again_draws_the_same() -> None:
    """As after one that had no memory left to draw in."""
    row = a_sequence(temperature=1.0, seed=5)
    flat = torch.zeros(1, 1000)

    first, again = pick(flat.clone(), [row]), pick(flat.clone(), [row])
    row.new.append(first[0] or 0)
    later = pick(flat.clone(), [row])

    assert first == again != later


def test_large_numbers_and_a_low_temperature_do_not_overflow() -> None:
    scores = torch.tensor([[3e38, 1.0, 2.0], [1e30, -1e30, 9.0]])

    assert draw(scores, [ask("", temperature=0.001)] * 2, [0.9, 0.1]) == [0, 0]


def test_a_row_whose_numbers_overflowed_has_no_token_and_its_neighbours_have() -> None:
    logits = torch.stack([SCORES, SCORES * float("nan"), SCORES])

    assert pick(logits, [a_sequence(), a_sequence(temperature=1.0), a_sequence()]) == [1, None, 1]


def test_a_penalty_makes_what_was_said_less_likely() -> None:
    logits = torch.tensor([[1.0, 1.5, 1.2, -1.0]])

    assert pick(logits, [a_sequence(prompt=(0,), new=(1,), repetition_penalty=2.0)]) == [2]
    assert pick(logits, [a_sequence(prompt=(0,), new=(2,), repetition_penalty=2.0)]) == [1]
    assert logits.tolist() == torch.tensor([[1.0, 1.5, 1.2, -1.0]]).tolist(), "a neighbour's row may share it"


def test_a_penalty_makes_negative_numbers_smaller() -> None:
    assert pick(torch.tensor([[-1.0, -1.5, -3.0]]), [a_sequence(prompt=(0,), repetition_penalty=2.0)]) == [1]


def test_no_end_comes_before_the_least_number_of_tokens() -> None:
    rows = [a_sequence(min_new_tokens=2), a_sequence(min_new_tokens=2, new=(0, 0)), a_sequence()]

    assert pick(SCORES.expand(3, -1), rows, frozenset({EOS})) == [3, EOS, EOS]


def test_a_registered_processor_changes_the_rows_that_name_it_alone() -> None:
    def only_two(prompt: Any, new: Any, logits: torch.Tensor) -> torch.Tensor:
        return torch.full_like(logits, -5.0).index_fill_(0, torch.tensor([2]), 5.0)

    processors.register("only two", only_two)
    processors.register("only two", only_two)

    rows = [a_sequence(), a_sequence(processors=("only two",)), a_sequence(processors=("only two",), temperature=0.1)]
    assert pick(SCORES.expand(3, -1), rows) == [1, 2, 2]
    with pytest.raises(ValueError, match="known already"):
        processors.register("only two", lambda prompt, new, logits: logits)


def test_a_processor_that_fails_costs_its_own_row_alone(caplog: pytest.LogCaptureFixture) -> None:
    def fail(prompt: Any, new: Any, logits: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such state")

    processors.register("fails", fail)
    processors.register("forbids all", lambda prompt, new, logits: torch.full_like(logits, -float("inf")))
    rows = [a_sequence(processors=("fails",)), a_sequence(temperature=0.1), a_sequence(processors=("forbids all",))]

    assert pick(SCORES.expand(3, -1), rows) == [None, 1, None]
    assert "logit processor failed" in caplog.text


def test_a_processor_that_nobody_registered_is_refused() -> None:
    with pytest.raises(RequestRejected, match="none called"):
        processors.check_processors(("unheard of",))
