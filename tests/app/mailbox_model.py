"""The rules of the mailbox in plain Python: lists, dictionaries and no clock.

What the real one does by the time of day is here a step of its own: a lease expires, a pause ends, a message grows
old. `due` says when the sweeper looks again: "soon" (a grace after a wake-up), "lease" (when the lease ends), "pause"
(when a pause ends), "past" (now), or "" (never: the mailbox is empty and nobody has it).
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

from app.keys import Box, shard_of

Due = Literal["", "past", "soon", "lease", "pause"]
Step = Literal["commit", "forward", "release"]
MOST_FORWARDS = 3
COMMON_DEATHS, ALL_DEATHS = 2, 5  # from there on a suspect; given up
BOXES: tuple[Box, ...] = ("inbox", "outbox", "control")


@dataclass
class Item:
    """One thing that waits."""

    id: str
    queue: str
    sent_ms: int
    text: str
    note: str = ""
    raised: int = 0
    vanished: int = 0
    forwards: int = 0
    paused: bool = False
    old: bool = False


@dataclass
class Held:
    """A lease. `head` is the id of what is in work; a draft has none."""

    token: int
    head: str
    expired: bool = False


@dataclass
class Place:
    """One conversation's mailbox in one box."""

    items: list[Item] = field(default_factory=list)
    held: Held | None = None
    settled: tuple[int, Step, tuple[str, ...]] | None = None
    told_full: bool = False
    stop: str = ""  # the id of the message that is to be stopped
    woken: bool = False  # within the last half minute, and since the last lease ended
    due: Due = ""

    def holds(self, token: int) -> bool:
        """Also after expiry, as long as nobody else took it."""
        return self.held is not None and self.held.token == token

    def in_work(self) -> Item | None:
        return next((item for item in self.items if self.held and item.id == self.held.head), None)

    def answer_again(self, token: int, step: Step) -> tuple[str, ...]:
        """Whoever settled last hears the same again; everybody else has lost."""
        if self.settled and self.settled[:2] == (token, step):
            return self.settled[2]
        return ("LOST",)


@dataclass
class Draft:
    """The newest text of a running answer."""

    id: str
    token: int
    text: str
    version: int = 1
    shown: int = 0


@dataclass(frozen=True)
class End:
    """What a commit leaves behind, besides a reply."""

    what: Literal["keep", "save", "forget"] = "keep"
    context: bytes = b""
    dead_letter: bytes = b""


class Model:
    """All mailboxes. `limit` for one conversation, `room` for one shard."""

    def __init__(self, limit: int, room: int) -> None:
        self.limit, self.room = limit, room
        self.places: dict[tuple[Box, str], Place] = defaultdict(Place)
        self.seen: set[str] = set()
        self.drafts: dict[str, Draft] = {}
        self.contexts: dict[str, bytes] = {}
        self.cards: dict[int, set[str]] = defaultdict(set)
        self.dead: dict[int, set[bytes]] = defaultdict(set)

    def accept(self, box: Box, conversation: str, item: Item) -> tuple[str, str]:
        """The outcome and the queue to wake."""
        place, outbox = self.places[box, conversation], self.places["outbox", conversation]
        if item.id in self.seen:
            return "REPEAT", place.items[0].queue if place.items else "send" if outbox.items else ""
        self.seen.add(item.id)
        waiting = len(place.items) - (place.held is not None)
        if waiting >= self.limit or self.waiting(box, shard_of(conversation)) >= self.room:
            who = "this conversation" if waiting >= self.limit else "the house"
            return "FULL", self._tell(place, conversation, Item(item.id, "send", item.sent_ms, f"{who} is full"))
        if waiting * 2 <= self.limit:
            place.told_full = False
        if box == "control":
            item.note = self._stop(conversation)
        rank = self._rank(place, item.sent_ms)
        place.items.insert(rank, item)
        if rank > 0 or place.held:
            return "WAIT", ""
        place.woken, place.due = True, "soon"
        return "WAKE", item.queue

    def lease(self, box: Box, conversation: str, queue: str, token: int) -> str:
        """LEASED, DRAFT, BUSY, EMPTY or ELSEWHERE; `token` is what the holder gets if there is one."""
        place = self.places[box, conversation]
        if place.held and not place.held.expired:
            return "BUSY"
        if suspect := place.in_work():
            suspect.vanished += 1
            if COMMON_DEATHS < suspect.vanished < ALL_DEATHS:
                suspect.paused, place.woken = True, False
        place.held = None
        if not place.items:
            return self._lease_draft(place, box, conversation, token)
        head = place.items[0]
        if head.queue != queue:
            return "ELSEWHERE"
        if head.paused:
            place.due = "pause"
            return "BUSY"
        place.held, place.due = Held(token, head.id), "lease"
        return "LEASED"

    def commit(
        self, box: Box, conversation: str, token: int, *, closes: tuple[str, ...], reply: Item | None, end: End
    ) -> tuple[str, ...]:
        """(DONE, next queue, "send" if a reply was appended), or (LOST,)."""
        place, shard = self.places[box, conversation], shard_of(conversation)
        if not place.holds(token):
            return place.answer_again(token, "commit")
        place.items = [item for item in place.items if item.id not in closes]
        if reply:
            self._append(conversation, reply)
        if reply and box == "outbox":  # in the place of what it stands for
            place.items.insert(0, place.items.pop())
        if end.what != "keep":
            self.contexts[conversation] = end.context if end.what == "save" else b""
        if end.dead_letter:
            self.dead[shard].add(end.dead_letter)
        if box == "outbox" and not reply:
            self.cards[shard].discard(closes[0])
        if (draft := self.drafts.get(conversation)) and draft.id in closes:
            del self.drafts[conversation]
        return self._settle(place, token, "commit", "send" if reply else "")

    def forward(self, box: Box, conversation: str, token: int, queue: str, text: str) -> tuple[str, ...]:
        """(DONE, queue), (TOO_MANY,) with the lease still held, or (LOST,)."""
        place = self.places[box, conversation]
        if not place.holds(token):
            return place.answer_again(token, "forward")
        head = place.items[0]
        if head.forwards >= MOST_FORWARDS:
            return ("TOO_MANY",)
        head.queue, head.text, head.forwards = queue, text, head.forwards + 1
        head.raised = head.vanished = 0
        return self._settle(place, token, "forward")

    def release(
        self, box: Box, conversation: str, token: int, *, pause: bool, counts: str, shown: tuple[str, int] | None
    ) -> tuple[str, ...]:
        """(DONE, queue to wake now), or (LOST,)."""
        place = self.places[box, conversation]
        if not place.holds(token):
            return place.answer_again(token, "release")
        head = place.in_work()
        if head:
            head.raised += counts == "raised"
            head.vanished += counts == "vanished"
            if counts == "hung":
                head.vanished = max(head.vanished, COMMON_DEATHS) + 1
            head.paused = pause
        if shown:
            self.cards[shard_of(conversation)].add(shown[0])
            if (draft := self.drafts.get(conversation)) and draft.id == shown[0]:
                draft.shown = shown[1]
        answer = self._settle(place, token, "release")
        if head and pause:
            place.due, place.settled = "pause", (token, "release", ("DONE", ""))
            return "DONE", ""
        return answer

    def mark(self, box: Box, conversation: str, token: int, note: str, card: str) -> bool:
        place = self.places[box, conversation]
        if not place.holds(token):
            return False
        if head := place.in_work():
            head.note = note
        if card:
            self.cards[shard_of(conversation)].add(card)
        return True

    def renew(self, box: Box, conversation: str, token: int) -> tuple[bool, bool]:
        """(still held, shall stop)."""
        place = self.places[box, conversation]
        if not place.held or place.held.token != token:
            return False, False
        place.held.expired, place.due = False, "lease"
        return True, bool(place.stop) and place.stop == place.held.head

    def write(self, conversation: str, token: int, message_id: str, text: str) -> int:
        """The draft's version; 0 if the turn is lost. The same text again is the same version."""
        if not self.places["inbox", conversation].holds(token):
            return 0
        draft = self.drafts.get(conversation)
        if not draft or draft.id != message_id:
            self.drafts[conversation] = Draft(message_id, token, text)
        elif (draft.token, draft.text) != (token, text):
            draft.token, draft.text, draft.version = token, text, draft.version + 1
        return self.drafts[conversation].version

    def sweep(self, box: Box, conversations: list[str], filled: list[str]) -> list[tuple[str, str]]:
        """(queue, conversation) to wake."""
        wake = []
        for conversation in conversations:
            place = self.places[box, conversation]
            if place.held and not place.held.expired:
                place.due = "lease"
            elif not place.items:
                place.due = ""
            else:
                place.due = "soon"
                if not place.woken or place.items[0].queue not in filled:
                    wake.append((place.items[0].queue, conversation))
                    place.woken = True
        return wake

    def waiting(self, box: Box, shard: int) -> int:
        """How many items a shard holds, those in work included."""
        counts = (len(place.items) for key, place in self.places.items() if (key[0], shard_of(key[1])) == (box, shard))
        return sum(counts)

    def stale(self, box: Box, conversation: str) -> tuple[str, ...]:
        """The ids of the leading items that waited too long."""
        items = self.places[box, conversation].items
        return tuple(item.id for item in takewhile(lambda item: item.old, items))

    def _rank(self, place: Place, sent_ms: int) -> int:
        """Behind everything that was sent before it or at the same time, and never before what is in work."""
        first = 1 if place.held else 0
        later = (rank for rank, item in enumerate(place.items) if rank >= first and item.sent_ms > sent_ms)
        return next(later, len(place.items))

    def _tell(self, place: Place, conversation: str, notice: Item) -> str:
        """One notice until there is room again; the queue to wake."""
        if place.told_full:
            return ""
        place.told_full = True
        self._append(conversation, notice)
        return "send"

    def _append(self, conversation: str, reply: Item) -> None:
        outbox = self.places["outbox", conversation]
        outbox.items.append(reply)
        if not outbox.due:
            outbox.due, outbox.woken = "soon", True

    def _stop(self, conversation: str) -> str:
        """Stop what runs now, and nothing else; its id, or nothing."""
        place = self.places["inbox", conversation]
        if not place.held or place.held.expired:
            return ""
        place.stop = place.held.head
        return place.stop

    def _lease_draft(self, place: Place, box: Box, conversation: str, token: int) -> str:
        draft = self.drafts.get(conversation)
        if box == "outbox" and draft and draft.version > draft.shown:
            place.held, place.due = Held(token, ""), "lease"
            return "DRAFT"
        place.due = ""
        return "EMPTY"

    def _settle(self, place: Place, token: int, step: Step, *more: str) -> tuple[str, ...]:
        """The lease ends; what is the head now is due."""
        place.held = None
        if place.items:
            place.woken, place.due = True, "soon"
        else:
            place.due = ""
        answer = ("DONE", place.items[0].queue if place.items else "", *more)
        place.settled = (token, step, answer)
        return answer
