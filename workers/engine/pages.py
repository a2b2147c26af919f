"""How large the paged cache is, and who fits into it. Numbers only: no torch, no thread.

The manager dies, with all its requests, when nobody can be given a page. So nobody is let in whose whole answer has no
room, and a reserve stays free: the manager throws out the pages that it keeps for reuse as soon as less is free than
the reserve, and the reserve is the most that one step can ask for.
"""

from dataclasses import dataclass

PAGE_TOKENS = {"cuda": 256}  # what flash attention's kernel needs to read pages itself
PAGE_TOKENS_ELSEWHERE = 32  # a prefix is reused in whole pages: short ones are reused earlier
STEP_TOKENS = {"cpu": 256, "cuda": 2048}  # of prompts and answers, in one step
TRASH_PAGES = 2  # of the manager's own


@dataclass(frozen=True, slots=True)
class Pages:
    """The cache of one engine. A page holds the keys and values of `page_tokens` tokens, of all layers."""

    page_tokens: int
    room: int  # pages for requests
    reserve: int  # pages that stay free
    step_tokens: int  # the most that one step computes

    @property
    def total(self) -> int:
        return self.room + self.reserve

    @property
    def margin(self) -> float:
        """The share of free pages below which the manager makes room."""
        return (self.reserve - 0.5) / self.total  # half a page, so that rounding cannot matter

    @property
    def longest(self) -> int:
        """Tokens of the longest request that fits."""
        return self.room * self.page_tokens

    def needed(self, tokens: int) -> int:
        """Pages for a request that ends with so many tokens."""
        return -(-tokens // self.page_tokens)


def plan_pages(*, device: str, slots: int, max_tokens: int, cache_tokens: int | None) -> Pages:
    """Room for `slots` requests of `max_tokens` each, or for `cache_tokens` if that is less; in whole pages."""
    page = PAGE_TOKENS.get(device, PAGE_TOKENS_ELSEWHERE)
    step = max(STEP_TOKENS.get(device, 2048), slots)
    reserve = -(-step // page) + slots  # prompts in whole pages, and a new page for each that writes
    room = slots * -(-max_tokens // page)
    if cache_tokens:
        room = max(1, min(room, cache_tokens // page))
    return Pages(page_tokens=page, room=room, reserve=reserve, step_tokens=step)
