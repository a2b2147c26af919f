"""Where a message goes: the queue by its kind, the box by its urgency; and how it gets there: accept, wake."""

import re
import time
from collections.abc import Callable

from app import keys
from app.acceptance import Accepted, Limits, Outcome, acceptance, read_accepted
from app.crashpoints import crashpoint
from app.keys import Box
from app.message import Message, Reply
from app.queue import Wake
from app.redis import AsyncStore

_COMMAND = re.compile(r"/([a-z][a-z0-9_-]*)(?=\s|$)", re.IGNORECASE)
_COUNT_AGAIN_S = 0.25
_NEARLY_FULL = 0.9

Say = Callable[[str], str]


def command_of(text: str) -> str:
    """The command that a text begins with, without its slash; empty if there is none."""
    found = _COMMAND.match(text)
    return found.group(1).lower() if found else ""


def route(message: Message) -> str:
    """The queue for a message: `text`, `image`, `default`, or `control` for what jumps the line."""
    if message.kind == "text":
        command = command_of(message.text)
        return "control" if command == "stop" else "default" if command else "text"
    return "image" if message.kind == "picture" else "default"


class Dispatcher:
    """accept, then wake. One for a listener; used from one event loop."""

    def __init__(self, store: AsyncStore, limits: Limits, *, wake: Wake, say: Say) -> None:
        self._store = store
        self._limits = limits
        self._wake = wake
        self._say = say
        self._counts = [0] * keys.SHARDS
        self._counted_at = -_COUNT_AGAIN_S

    async def dispatch(self, message: Message) -> Accepted:
        """Store a message and wake its queue.

        Raises:
            StoreUnavailable: it may be stored all the same; dispatch it again.
        """
        queue = route(message)
        box: Box = "control" if queue == "control" else "inbox"
        shard = keys.shard_of(message.conversation)
        names, args = acceptance(
            box,
            message,
            queue,
            limits=self._limits,
            room=await self._room(shard),
            notices=(self._notice(message, "full_conversation"), self._notice(message, "full_house")),
        )
        accepted = read_accepted(await self._store.run("accept", names, args))
        if accepted.outcome in (Outcome.WAKE, Outcome.WAIT):
            self._counts[shard] += 1
        crashpoint("accept/wake")
        if accepted.wake:
            self._wake(accepted.wake, message.conversation)
        return accepted

    async def _room(self, shard: int) -> int:
        """How many messages this shard may hold so that all shards together stay within the limit.

        The other shards are counted four times a second, and each time when the house is nearly full; of a node that
        is silent the last count stands.
        """
        nearly_full = sum(self._counts) >= self._limits.waiting_limit * _NEARLY_FULL
        if nearly_full or time.monotonic() - self._counted_at >= _COUNT_AGAIN_S:
            self._counted_at = time.monotonic()
            names = [keys.waiting("inbox", number) for number in range(keys.SHARDS)]
            counted = await self._store.counts(names)
            self._counts = [old if new is None else new for new, old in zip(counted, self._counts, strict=True)]
        return self._limits.waiting_limit - sum(self._counts) + self._counts[shard]

    def _notice(self, message: Message, key: str) -> Reply:
        return Reply(
            id=message.id,
            conversation=message.conversation,
            address=message.address,
            text=self._say(key),
            kind="notice",
        )
