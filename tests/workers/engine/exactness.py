"""Whether many answers are those of one-by-one generation: ties are counted, not hidden."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.workers.engine.reference import TIES, Reference, generate

if TYPE_CHECKING:
    from workers.engine.loading import Loaded


@dataclass
class Judge:
    """Compares answers with one-by-one generation; a prompt is generated once, up to `longest` tokens."""

    loaded: "Loaded"
    longest: int
    tokens: int = 0  # compared
    ties: int = 0  # that went the other way
    _known: dict[tuple[int, ...], Reference] = field(default_factory=dict)

    def check(self, prompt: list[int], got: list[int], *, limit: int | None = None) -> None:
        """Fail if the answer differs in more than ties, or is not whole.

        `limit`: its most tokens; None: it was cancelled, and what there is of it may be less.
        """
        if limit is not None:
            whole = len(got) == limit or (got and got[-1] in self.loaded.eos)
            assert whole, f"the answer ends after {len(got)} of {limit} tokens"
        self.tokens += len(got)
        while got:
            reference = self._reference(prompt)
            assert len(got) <= len(reference.tokens), "the answer goes on behind its end"
            at = next((i for i, token in enumerate(got) if token != reference.tokens[i]), None)
            if at is None:
                return
            assert reference.gaps[at] < TIES[self.loaded.model.dtype], f"token {at} differs, and it was no tie"
            self.ties += 1
            prompt, got = prompt + got[: at + 1], got[at + 1 :]

    def _reference(self, prompt: list[int]) -> Reference:
        key = tuple(prompt)
        if key not in self._known:
            self._known[key] = generate(self.loaded, prompt, self.longest)
        return self._known[key]
