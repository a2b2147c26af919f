"""How large the paged cache is, and who fits into it. Numbers only: no torch, no thread.

The manager dies, with all its requests, when nobody can be given a page. So nobody is let in whose whole answer has no
room, and a reserve stays free: the manager throws out the pages that it keeps for reuse as soon as less is free than
the reserve, and the reserve is the most that one step can ask for.
"""

from dataclasses import dataclass
from typing import Any

from app.errors import BadSetting

PAGE_TOKENS = {"cuda": 256}  # what flash attention's kernel needs to read pages itself
PAGE_TOKENS_ELSEWHERE = 32  # a prefix is reused in whole pages: short ones are reused earlier
STEP_TOKENS = {"cpu": 256, "cuda": 2048}  # of prompts and answers, in one step
TRASH_PAGES = 2  # of the manager's own
MEGABYTE = 1024**2


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


def plan_pages(*, device: str, slots: int, max_tokens: int, token_bytes: int, cache_mb: int) -> Pages:
    """Room for `slots` requests of `max_tokens`, or as much of it as `cache_mb` holds; 0: no limit.

    Raises:
        BadSetting: not even one page fits beside the reserve.
    """
    page = PAGE_TOKENS.get(device, PAGE_TOKENS_ELSEWHERE)
    step = max(STEP_TOKENS.get(device, 2048), slots)
    reserve = -(-step // page) + slots  # prompts in whole pages, and a new page for each that writes
    room = slots * -(-max_tokens // page)
    if cache_mb:
        room = min(room, cache_mb * MEGABYTE // (page * token_bytes) - reserve - TRASH_PAGES)
    if room < 1:
        least_mb = -(-(reserve + TRASH_PAGES + 1) * page * token_bytes // MEGABYTE)
        raise BadSetting(f"SWITCHYARD_CACHE_MB: {cache_mb} is too little for this model; at least {least_mb}")
    return Pages(page_tokens=page, room=room, reserve=reserve, step_tokens=step)


def token_bytes(config: Any, number_bytes: int) -> int:
    """Keys and values of one token in all layers, of a transformers text configuration."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * number_bytes)
