"""How large the paged cache is: all whole answers, or what the memory holds, and always the reserve of a step."""

import pytest

from workers.engine.pages import MEGABYTE, TRASH_PAGES, Pages, plan_pages

TOKEN_BYTES = 2**14


def planned(device: str = "cpu", slots: int = 4, max_tokens: int = 1000, cache_mb: int = 0) -> Pages:
    return plan_pages(device=device, slots=slots, max_tokens=max_tokens, token_bytes=TOKEN_BYTES, cache_mb=cache_mb)


@pytest.mark.parametrize(("device", "page", "each"), [("cpu", 32, 32), ("cuda", 256, 4), ("xpu", 32, 32)])
def test_without_a_limit_every_slot_has_room_for_the_longest_answer(device: str, page: int, each: int) -> None:
    pages = planned(device)

    assert (pages.page_tokens, pages.room, pages.needed(1000)) == (page, 4 * each, each)


@pytest.mark.parametrize("cache_mb", [20, 33, 50, 10_000])
def test_the_whole_cache_keeps_within_the_memory_that_is_set(cache_mb: int) -> None:
    pages = planned(cache_mb=cache_mb)

    assert (pages.total + TRASH_PAGES) * pages.page_tokens * TOKEN_BYTES <= cache_mb * MEGABYTE
    assert pages.room == min(4 * 32, cache_mb * 2 - pages.reserve - TRASH_PAGES)


@pytest.mark.parametrize(("device", "slots"), [("cpu", 4), ("cpu", 700), ("cuda", 64)])
def test_the_reserve_is_the_most_that_one_step_asks_for(device: str, slots: int) -> None:
    """The prompts of a step in whole pages, and a new page for each that writes; all may write in one step."""
    pages = planned(device, slots)

    assert pages.step_tokens >= slots
    assert pages.reserve * pages.page_tokens >= pages.step_tokens + slots * pages.page_tokens
    assert (pages.reserve - 1) / pages.total < pages.margin < pages.reserve / pages.total
