"""How large the paged cache is: all whole answers, or the tokens that are set, and always the reserve of a step."""

import pytest

from workers.engine.pages import Pages, plan_pages


def planned(device: str = "cpu", slots: int = 4, max_tokens: int = 1000, cache_tokens: int | None = None) -> Pages:
    return plan_pages(device=device, slots=slots, max_tokens=max_tokens, cache_tokens=cache_tokens)


@pytest.mark.parametrize(("device", "page", "each"), [("cpu", 32, 32), ("cuda", 256, 4), ("xpu", 32, 32)])
def test_without_a_limit_every_slot_has_room_for_the_longest_answer(device: str, page: int, each: int) -> None:
    pages = planned(device)

    assert (pages.page_tokens, pages.room, pages.needed(1000)) == (page, 4 * each, each)


@pytest.mark.parametrize(("cache_tokens", "room"), [(1, 1), (100, 3), (2000, 62), (10**6, 4 * 32)])
def test_requests_have_no_more_than_the_tokens_that_are_set_and_at_least_a_page(cache_tokens: int, room: int) -> None:
    pages = planned(cache_tokens=cache_tokens)

    assert (pages.room, pages.longest) == (room, 32 * room)


@pytest.mark.parametrize(("device", "slots"), [("cpu", 4), ("cpu", 700), ("cuda", 64)])
def test_the_reserve_is_the_most_that_one_step_asks_for(device: str, slots: int) -> None:
    """The prompts of a step in whole pages, and a new page for each that writes; all may write in one step."""
    pages = planned(device, slots)

    assert pages.step_tokens >= slots
    assert pages.reserve * pages.page_tokens >= pages.step_tokens + slots * pages.page_tokens
    assert (pages.reserve - 1) / pages.total < pages.margin < pages.reserve / pages.total
