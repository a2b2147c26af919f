"""A plan becomes one forward: which tokens, where they go, and who is attended to together."""

from typing import cast

import torch

from tests.workers.engine.asking import ask
from workers.engine.adapted import AdaptedModel, Adapter
from workers.engine.attention import Group, Piece
from workers.engine.interface import Handle
from workers.engine.packing import Packing, grouped
from workers.engine.scheduler import Chunk, Plan, Row
from workers.engine.sequence import Answer, Sequence
from workers.engine.spans import Span


def a_row(start: int, position: int, *, tokens: int = 64, token: int = 0) -> Row:
    sequence = Sequence(
        request=ask(""),
        handle=Handle(),
        prompt=[1],
        max_new=1,
        ends_at_s=None,
        answer=Answer(lambda tokens: "", ()),
    )
    return Row(sequence, Span(start, tokens), token, position)


def groups(*rows: Row, call_cost: int) -> list[tuple[int, int]]:
    return [(group.begin, group.end) for group in grouped(rows, first=0, call_cost=call_cost)]


def test_prompts_come_first_then_the_rows_each_at_its_own_place() -> None:
    packing = Packing(16, torch.device("cpu"))
    plan = Plan((), (Chunk(Span(64, 64), 2, [7, 8, 9]),), (a_row(0, 5, token=3), a_row(128, 6, token=4)))

    packed = packing.pack(plan)

    assert packed.tokens.tolist() == [[7, 8, 9, 3, 4]]
    assert packed.positions.tolist() == [[2, 3, 4, 5, 6]]
    assert packed.places.tolist() == [66, 67, 68, 5, 134]
    assert packed.batch.pieces == [Piece(0, 3, 64, 2)]
    assert packed.batch.groups == [Group(3, 4, 0, 64, (6,)), Group(4, 5, 128, 64, (7,))]


def test_the_tensors_are_made_once() -> None:
    """Memory that is asked for at every step is time at every step."""
    packing = Packing(16, torch.device("cpu"))

    first, second = (packing.pack(Plan((), (), (a_row(0, position),))) for position in (4, 5))

    assert first.tokens.data_ptr() == second.tokens.data_ptr()
    assert second.positions.tolist() == [[5]]


def test_neighbours_are_attended_to_in_one_call() -> None:
    assert groups(a_row(0, 9), a_row(64, 9), a_row(128, 9), call_cost=0) == [(0, 3)]


def test_a_gap_or_another_size_begins_a_new_group() -> None:
    """One call sees sequences at equal distances only."""
    gap = groups(a_row(0, 9), a_row(128, 9), call_cost=1000)
    size = groups(a_row(0, 9), a_row(64, 9, tokens=128), call_cost=1000)

    assert gap == size == [(0, 1), (1, 2)]


def test_padding_that_costs_more_than_a_call_is_not_made() -> None:
    long, short = a_row(0, 60), a_row(64, 10)

    assert groups(long, short, call_cost=49) == [(0, 1), (1, 2)]
    assert groups(long, short, call_cost=50) == [(0, 2)]
    assert groups(short, a_row(128, 10), call_cost=0) == [(0, 2)]
    assert groups(short, a_row(128, 10), a_row(192, 40), call_cost=59) == [(0, 2), (2, 3)]


def an_adapter() -> Adapter:
    """One that is only told from others."""
    return Adapter(name="some", host=cast(AdaptedModel, None), pairs={}, bytes=0)


def test_the_tokens_of_each_adapter_are_known_and_those_side_by_side_need_no_index() -> None:
    packing = Packing(16, torch.device("cpu"))
    first, second = an_adapter(), an_adapter()
    rows = [a_row(start, 5) for start in (0, 64, 128, 192)]
    rows[0].sequence.adapter = rows[2].sequence.adapter = first
    rows[1].sequence.adapter = second

    packed = packing.pack(Plan((), (Chunk(Span(256, 64), 0, [7, 8]), Chunk(Span(320, 64), 4, [9], first)), tuple(rows)))

    found = [(part.adapter, part.begin, part.end, part.index) for part in packed.parts]
    assert found[0][:3] == (first, 2, 6)
    assert found[0][3] is not None
    assert found[0][3].tolist() == [2, 3, 5]
    assert found[1:] == [(second, 4, 5, None)]
    assert packed.places.tolist() == [256, 257, 324, 5, 69, 133, 197]


def test_without_adapters_there_are_no_parts() -> None:
    assert Packing(16, torch.device("cpu")).pack(Plan((), (), (a_row(0, 5),))).parts == ()
