"""One request inside an engine that computes: its tokens, how many of them are in the cache, its text so far."""

from __future__ import annotations

import logging
import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workers.engine.figures import End
from workers.engine.interface import Finish, Handle, Request, Result
from workers.engine.meter import Course, Meter
from workers.engine.text import Characters, Decode, StopStrings

if TYPE_CHECKING:
    from workers.engine.adapted import Adapter

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True, kw_only=True)
class Sequence:
    """Prompt tokens, then answer tokens; the first `cached` of them have their keys and values in the cache."""

    request: Request
    handle: Handle
    prompt: list[int]
    max_new: int  # the request's own limit, or what the prompt leaves of the model's
    ends_at_s: float | None  # the deadline on the engine's clock
    answer: Answer
    course: Course = field(default_factory=lambda: Meter().begin())
    new: list[int] = field(default_factory=list)  # with the token that ended it
    cached: int = 0
    arrived_s: float = 0.0  # when it came to the scheduler
    adapter: Adapter | None = None  # until it ends
    kind: Hashable = None  # of its adapter, as it was loaded: keys and values of another kind are other ones
    spoiled: bool = False  # something went wrong: what it has in the cache is for nobody else
    unheard: bool = False  # its reader failed: it ends at the next look
    seed: int = field(init=False)

    def __post_init__(self) -> None:
        self.seed = random.getrandbits(63) if self.request.seed is None else self.request.seed

    def throw(self) -> float:
        """The dice for its next token, in [0, 1): by its seed and the token's place alone.

        So neighbours change nothing, nor does a step that had no memory and is done again.
        """
        return random.Random(f"{self.seed} {len(self.new)}").random()

    @property
    def most_tokens(self) -> int:
        """The most that it may come to in the cache; the last token of the answer is never put in."""
        return len(self.prompt) + self.max_new - 1

    @property
    def to_prefill(self) -> int:
        """Tokens still to put into the cache before the last one, which goes through decoding and brings the next.

        Of its prompt; of its answer too when it gave its span back and begins anew.
        """
        return max(0, len(self.prompt) + len(self.new) - 1 - self.cached)

    @property
    def next_input(self) -> int:
        """The token that the next decoding step puts in, at position `cached`."""
        return self.new[-1] if self.new else self.prompt[-1]

    def tokens(self, start: int, end: int) -> list[int]:
        """Those at these positions, of prompt and answer."""
        if end <= len(self.prompt):
            return self.prompt[start:end]
        return (self.prompt + self.new)[start:end]

    def begin(self) -> None:
        """It has a slot."""
        try:
            self.handle.begin()
        except Exception:
            log.exception("reader failed")
            self.unheard = True

    def ended_by(self, now_s: float) -> End | None:
        """Why it must end without another token, if it must; "failed": its reader did."""
        try:
            cancelled = self.handle.cancelled
        except Exception:
            log.exception("reader failed")
            self.unheard = True
        if self.unheard:
            return "failed"
        if cancelled:
            return "cancelled"
        if self.ends_at_s is not None and now_s >= self.ends_at_s:
            return "deadline"
        return None

    def take(self, token: int, eos: frozenset[int]) -> Finish | None:
        """Add one answer token, hand its text to the reader; says if this was the last one."""
        self.new.append(token)
        self.course.token()
        if token in eos:
            return "stop"
        self.show(self.answer.add(token))
        if self.answer.stopped:
            return "stop"
        return "length" if len(self.new) >= self.max_new else None

    def show(self, piece: str) -> None:
        if piece and not self.course.ended:
            self.handle.emit(piece)

    def finish(self, reason: Finish) -> None:
        """Give the reader the rest of the text and the result; nothing, if the request was ended before."""
        if reason in ("stop", "length"):  # otherwise a stop string might have followed: its beginning stays hidden
            self.show(self.answer.flush())
        if not self.course.end(reason):
            return
        self.handle.finish(
            Result(
                text=self.answer.text,
                finish=reason,
                prompt_tokens=len(self.prompt),
                new_tokens=len(self.new),
            )
        )


class Answer:
    """The text of one answer as it grows: whole characters, cut before a stop string."""

    def __init__(self, decode: Decode, stops: tuple[str, ...]) -> None:
        self._characters = Characters(decode)
        self._stops = StopStrings(stops)
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All that `add` and `flush` returned."""
        return "".join(self._pieces)

    @property
    def stopped(self) -> bool:
        return self._stops.stopped

    def add(self, token: int) -> str:
        """The piece of text that may be shown after this token; often empty."""
        return self._keep(self._stops.add(self._characters.add(token)))

    def flush(self) -> str:
        """The last piece: what was held back and is no beginning of a stop string after all."""
        return self._keep(self._stops.add(self._characters.flush()) + self._stops.flush())

    def _keep(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
        return piece
