"""A tiny platform in memory: it keeps what people see, is idempotent where the real one is, and can be told to fail."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from app.channels.outlet import Fence
from app.errors import OutcomeUnknown, PlatformBusy, PlatformRefused
from app.message import Address


@dataclass
class Seen:
    """One thing in somebody's chat. `way`: card, webhook or proactive."""

    way: str
    text: str
    finished: bool = True


@dataclass(frozen=True)
class Trouble:
    """What the next call of a kind answers. `done`: it did what it was asked all the same."""

    error: BaseException
    done: bool = False


@dataclass
class _Card:
    seen: Seen
    keys: set[str] = field(default_factory=set)


class RecordingOutlet:
    """app.channels.outlet.Outlet. Calls are named open, update, finish, webhook and proactive."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.calls: list[str] = []
        self.typed: list[str] = []  # every text that a card showed, in order
        self.takes_cards = True
        self.longest = 1000  # characters of a message, and of a card
        self.unsafe = "\0"  # a text that holds this is refused by the audit
        # What else happens in the world, once: before the next call asks for its lease, and right after that.
        self.before_next_check: Callable[[], object] | None = None
        self.before_next_call: Callable[[], object] | None = None
        self._troubles: dict[str, list[Trouble]] = {}
        self._at: dict[str, tuple[int, Trouble]] = {}
        self._cards: dict[str, _Card] = {}
        self._lock = threading.Lock()

    def fails(self, call: str, *troubles: Trouble | BaseException) -> None:
        """Answer the next calls of this kind so; those behind them are done."""
        told = [one if isinstance(one, Trouble) else Trouble(one) for one in troubles]
        self._troubles.setdefault(call, []).extend(told)

    def dies_in(self, call: str, nth: int, trouble: Trouble | None = None) -> None:
        """The nth call of this kind from now on, counted from 0, is done; then the process dies, if nothing else."""
        self._at[call] = (nth, trouble or Trouble(SystemExit(), done=True))

    def texts(self) -> list[str]:
        return [one.text for one in self.seen]

    def under(self, fence: Fence) -> "FencedOutlet":
        """The same platform, each call behind a fence."""
        return FencedOutlet(self, fence)

    def can_card(self, address: Address) -> bool:
        return self.takes_cards

    def open_card(self, card: str, address: Address, text: str) -> None:
        def do() -> None:
            self._check(text)
            if card not in self._cards:
                self._cards[card] = _Card(self._show(Seen("card", text, finished=False)))
                self.typed.append(text)

        self._call("open", do)

    def update_card(self, card: str, text: str, *, key: str) -> None:
        self._call("update", lambda: self._write(card, text, key, finish=False))

    def finish_card(self, card: str, text: str, *, key: str) -> None:
        self._call("finish", lambda: self._write(card, text, key, finish=True))

    def fail_card(self, card: str, text: str, *, key: str) -> None:
        self._call("fail", lambda: self._write(card, text, key, finish=True))

    def by_webhook(self, address: Address, text: str) -> None:
        self._call("webhook", lambda: self._show(Seen("webhook", text)))

    def proactively(self, address: Address, text: str) -> None:
        self._call("proactive", lambda: self._show(Seen("proactive", text)))

    def split(self, text: str) -> list[str]:
        return [text[at : at + self.longest] for at in range(0, len(text), self.longest)]

    def _call(self, name: str, do: Callable[[], object]) -> None:
        with self._lock:
            self.calls.append(name)
            trouble = self._trouble(name)
            if trouble is None or trouble.done:
                do()
            if trouble is not None:
                raise trouble.error

    def passes(self, fence: Fence) -> None:
        """What a platform's client does before a call."""
        _happen(self, "before_next_check")
        fence.check()
        _happen(self, "before_next_call")
        if fence.ends_at() <= time.monotonic():
            raise PlatformBusy("the time was over before the request left")

    def _trouble(self, name: str) -> Trouble | None:
        nth, later = self._at.pop(name, (-1, None))
        if later and nth > 0:
            self._at[name] = (nth - 1, later)
        waiting = self._troubles.get(name)
        return waiting.pop(0) if waiting else later if nth == 0 else None

    def _show(self, seen: Seen) -> Seen:
        self.seen.append(seen)
        return seen

    def _check(self, text: str) -> None:
        if self.unsafe in text:
            raise PlatformRefused("param.contentUnsafe")
        if len(text) > self.longest:
            raise PlatformRefused("param.stream.content")

    def _write(self, card: str, text: str, key: str, *, finish: bool) -> None:
        """A key that was seen changes nothing; a finished card takes no other text."""
        if card not in self._cards:
            raise PlatformRefused("param.stream.outTrackId")
        known = self._cards[card]
        if key in known.keys:
            return
        if known.seen.finished:
            raise PlatformRefused("param.stream.finalized")
        self._check(text)
        known.keys.add(key)
        known.seen.text, known.seen.finished = text, finish
        self.typed.append(text)


class FencedOutlet:
    """A RecordingOutlet under a fence."""

    def __init__(self, platform: RecordingOutlet, fence: Fence) -> None:
        self._platform = platform
        self._fence = fence
        self.can_card, self.split = platform.can_card, platform.split

    def under(self, fence: Fence) -> "FencedOutlet":
        return FencedOutlet(self._platform, fence)

    def open_card(self, card: str, address: Address, text: str) -> None:
        self._platform.passes(self._fence)
        self._platform.open_card(card, address, text)

    def update_card(self, card: str, text: str, *, key: str) -> None:
        self._platform.passes(self._fence)
        self._platform.update_card(card, text, key=key)

    def finish_card(self, card: str, text: str, *, key: str) -> None:
        self._platform.passes(self._fence)
        self._platform.finish_card(card, text, key=key)

    def fail_card(self, card: str, text: str, *, key: str) -> None:
        self._platform.passes(self._fence)
        self._platform.fail_card(card, text, key=key)

    def by_webhook(self, address: Address, text: str) -> None:
        self._platform.passes(self._fence)
        self._platform.by_webhook(address, text)

    def proactively(self, address: Address, text: str) -> None:
        self._platform.passes(self._fence)
        self._platform.proactively(address, text)


def _happen(platform: RecordingOutlet, when: str) -> None:
    what: Callable[[], object] | None = getattr(platform, when)
    setattr(platform, when, None)
    if what is not None:
        what()


DONE_BUT_UNKNOWN = Trouble(OutcomeUnknown("504"), done=True)
UNKNOWN = Trouble(OutcomeUnknown("504"))
BUSY = Trouble(PlatformBusy("QpsLimit", retry_after_s=0.5))
DIES_BEFORE = Trouble(SystemExit())
DIES_AFTER = Trouble(SystemExit(), done=True)
NO_CARDS = PlatformRefused("Forbidden.AccessDenied.QuotaExhausted")
