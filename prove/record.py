"""What the record says while things break: who holds what, and whether it has moved since."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app import keys
from app.errors import StoreUnavailable
from app.keys import Box
from app.redis import Store

PATIENCE_S = 0.5
BOXES: tuple[Box, ...] = ("inbox", "outbox")


@dataclass(frozen=True, slots=True)
class Front:
    """The front of one mailbox: its head, and who has it."""

    box: Box
    conversation: str
    id: str  # of the message at the head; empty if there is none
    token: int  # the last one that was given out
    until_ms: int  # the end of its lease, by the server's clock; 0 if it was settled
    holder: int  # pid; 0 if nobody has it
    later_ms: int  # not before this time; 0: now

    def moved_since(self, before: "Front") -> bool:
        """Whether somebody took it, renewed it or brought it to an end; to be given back is not to move."""
        renewed = self.token == before.token and self.until_ms > before.until_ms > 0
        return renewed or self.token > before.token or self.id != before.id


class Record:
    """Reads what the record says of some conversations; one that does not answer holds nothing and moves nothing."""

    def __init__(self, url: str, conversations: Sequence[str]) -> None:
        self._store = Store(url, deadline_s=0.0, timeout_s=PATIENCE_S)
        self._conversations = conversations

    def fronts(self) -> list[Front]:
        """Every mailbox that is not empty."""
        try:
            fronts = [self._front(box, conversation) for box in BOXES for conversation in self._conversations]
        except StoreUnavailable:
            return []
        return [front for front in fronts if front.id]

    def held_by(self, pids: set[int]) -> list[Front]:
        """What these processes have in their hands."""
        return [front for front in self.fronts() if front.holder in pids]

    def waiting(self) -> list[Front]:
        """What could be taken now, and nobody has."""
        now_ms = time.time() * 1000
        return [front for front in self.fronts() if not front.holder and front.later_ms <= now_ms]

    def moved(self, before: Front) -> bool:
        """Whether a mailbox has moved since it looked like this."""
        try:
            return self._front(before.box, before.conversation).moved_since(before)
        except StoreUnavailable:
            return False

    def sweeper(self) -> int:
        """The pid of the process that sweeps; 0 if none does, or the record does not answer."""
        try:
            value: Any = self._store.at(keys.SWEEPER, lambda server: server.get(keys.SWEEPER))
        except StoreUnavailable:
            return 0
        return _pid(value)

    def close(self) -> None:
        self._store.close()

    def _front(self, box: Box, conversation: str) -> Front:
        name, items = keys.state(box, conversation), keys.items(box, conversation)
        packed: Any = self._store.at(items, lambda server: server.lindex(items, 0))
        state: Any = self._store.at(name, lambda server: server.hmget(name, ["token", "until", "request", "settled"]))
        head: dict[str, Any] = msgspec.msgpack.decode(packed) if packed else {}
        token, until_ms = int(state[0] or 0), int(state[1] or 0)
        settled = int((state[3] or b"0").rpartition(b" ")[2])
        return Front(
            box,
            conversation,
            id=str(head.get("id", "")),
            token=max(token, settled),
            until_ms=until_ms,
            holder=_pid(state[2]) if until_ms > time.time() * 1000 else 0,  # the servers are on this machine
            later_ms=int(head.get("later") or 0),
        )


def _pid(name: bytes | None) -> int:
    """Holders are named after their process."""
    return int(name.partition(b":")[0]) if name else 0
