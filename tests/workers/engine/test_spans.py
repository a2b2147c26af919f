"""Spans of the cache: never two in one place, none lost, neighbours of one size where there is room."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.spans import SHELF_SPANS, SMALLEST, Span, Spans, span_tokens


@given(st.integers(1, 100_000))
def test_a_span_holds_what_was_asked_for_and_at_most_half_more(tokens: int) -> None:
    size = span_tokens(tokens)

    assert tokens <= size
    assert size == SMALLEST or size <= 1.5 * tokens


def test_spans_of_one_size_are_neighbours_whoever_comes_between() -> None:
    """Neighbours are attended to in one call."""
    spans = Spans(100_000)

    taken = [spans.take(tokens) for tokens in [200, 1000] * SHELF_SPANS]

    small = [span.start for span in taken if span is not None and span.tokens == 256]
    assert small == [small[0] + 256 * n for n in range(SHELF_SPANS)]


def test_a_small_cache_is_used_to_the_last_token() -> None:
    spans = Spans(256)

    taken = [spans.take(64) for _ in range(5)]

    assert sorted(span.start for span in taken[:4] if span) == [0, 64, 128, 192]
    assert taken[4] is None


def test_an_empty_cache_has_room_for_all_that_it_holds() -> None:
    spans = Spans(1000)

    assert spans.take(999) == Span(0, 1000)


@settings(deadline=None)
@given(
    tokens=st.integers(64, 5000),
    wishes=st.lists(st.tuples(st.integers(1, 700), st.integers(0, 30)), max_size=80),
)
def test_spans_never_overlap_and_all_come_back(tokens: int, wishes: list[tuple[int, int]]) -> None:
    spans, held = Spans(tokens), list[Span]()

    for wish, leaving in wishes:
        if (span := spans.take(min(wish, tokens))) is not None:
            held.append(span)
        if held and leaving < 15:
            spans.give(held.pop(leaving % len(held)))
        used = sorted((span.start, span.end) for span in held)
        assert all(before[1] <= after[0] for before, after in pairwise(used))
        assert all(0 <= start < end <= tokens for start, end in used)
        assert spans.free == tokens - sum(span.tokens for span in held)
    for span in held:
        spans.give(span)

    assert spans.take(tokens) is not None
