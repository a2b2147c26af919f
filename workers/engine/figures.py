"""What an engine says of itself in numbers. Counts and times alone: nothing of what anybody wrote.

What an engine cannot know is None, and then nowhere: a 0 would look like an answer.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

VERSION: Final = 1  # of the plain form; a reader leaves alone what is newer than it
End = Literal["stop", "length", "cancelled", "deadline", "failed"]
ENDS: Final[tuple[End, ...]] = ("stop", "length", "cancelled", "deadline", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How times in seconds are spread: `counts[i]` are above `bounds[i - 1]` and at most `bounds[i]`, the last of them
    above all bounds. `sum_s`: all of them together."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One reading. Whatever is counted is counted since the engine's start, and never grows less."""

    slots: int
    running: int  # requests that have a slot
    waiting: int  # requests that wait for one
    prompt_tokens: int  # that went in; without `reused_tokens`, where these are known
    generated_tokens: int  # that came out, with those that end an answer
    ended: dict[End, int]  # requests; what was refused at the door was none
    first_token_s: Spread  # from the door to the first token
    output_token_s: Spread  # of each answer of two tokens or more: from its first to its last, a token
    reused_tokens: int | None = None  # of prompts: found in the cache
    cache_tokens: int | None = None  # for so many there is room
    cache_tokens_used: int | None = None  # so many those that run have taken of it
    evictions: int | None = None  # of what was kept for later, for want of room
    restarts: int | None = None  # with the weights kept
    out_of_memory: int | None = None  # steps that the device had no memory for, and that were done by halves

    def plain(self) -> dict[str, Any]:
        """For JSON: numbers by name, the ends and both spreads as objects, with a version; without what is None."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {"version": VERSION, **known}
