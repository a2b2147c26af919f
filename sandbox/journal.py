"""The log of everything that happened, in order: what a test reads to see what people were shown.

Every event has `seq`, `kind`, `wall_s` and `mono_s`; what else it has goes by its kind:

    opened       subscriptions                                   a ticket was given out
    connected    connection
    closed       connection, code                                1005 and 1006: without a close frame
    uncovered                                                    from now on nobody gets pushes: all are told to go
    covered      after_ms                                        somebody does again, after so long
    pushed       msgId, connection, messageId, topic, conversation, delivery (1 = the first), lost
    unpushed     msgId, conversation                             nobody was connected
    acked        msgId, connection, messageId, conversation, code, data, after_ms
    system       as pushed: a SYSTEM frame went out
    answered     topic, connection, messageId, code, after_ms    a SYSTEM frame was acknowledged
    bad_ack      connection, reason                              malformed, unknown, or on another socket
    created      card, text, template, conversation, person      a card became visible
    updated      card, guid, text, state, conversation, person   guid is null for a PUT of the card's data
    finished     the same; state is finished or failed           ANSWER
    webhook      text, msgtype, conversation, person, session_msgId (whose webhook it was)   ANSWER
    proactive    text, msgKey, processQueryKey, target, conversation, person                 ANSWER
    repeated     what (create, update), card, guid               a known id again: nothing was shown
    refused      route, status, code, processed, card            processed: done, and yet the caller was told 504
    reacted, unreacted   msgId, conversation, name
    downloaded   downloadCode, stage (link, file)
    uploaded     mediaId, type, bytes

`person` is a staff id ("" where a whole group sees it); `conversation` is "" if the person never wrote.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]

# What a person sees as an answer. A card counts when it ends; its earlier states are `created` and `updated`.
ANSWERS = frozenset({"finished", "webhook", "proactive"})


class Journal:
    """Events with rising sequence numbers, from 1. Keeps at least the newest `limit` of them, texts whole."""

    def __init__(
        self,
        limit: int = 1_000_000,
        wall: Callable[[], float] = time.time,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last = 0
        self._limit = limit
        self._wall = wall
        self._mono = mono
        self._events: list[Event] = []
        self._waiting: dict[str, set[asyncio.Future[Event]]] = {}

    def add(self, kind: str, **fields: Any) -> Event:
        """Write one event; times in seconds, `mono_s` by the clock that all processes of this machine share."""
        self.last += 1
        event: Event = {"seq": self.last, "kind": kind, "wall_s": self._wall(), "mono_s": self._mono(), **fields}
        self._events.append(event)
        if len(self._events) > self._limit * 1.1:
            del self._events[: len(self._events) - self._limit]
        if kind in ANSWERS:
            self._tell(event)
        return event

    def since(self, seq: int, limit: int) -> list[Event]:
        """The events after `seq`, oldest first, at most `limit`; those that are no longer kept are left out."""
        if not self._events:
            return []
        start = max(0, seq + 1 - int(self._events[0]["seq"]))
        return self._events[start : start + limit]

    async def answer(self, conversation: str, after: int, timeout_s: float) -> Event | None:
        """The first answer shown in a conversation after the event `after`; None if none came in time."""
        for event in self.since(after, self._limit * 2):
            if event["kind"] in ANSWERS and event.get("conversation") == conversation:
                return event
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(conversation, set())
        waiting.add(future)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return None
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(conversation, None)

    def clear(self) -> None:
        """Forget all events. Numbers go on, so that an old `since` stays meaningful."""
        self._events.clear()

    def _tell(self, event: Event) -> None:
        for future in self._waiting.get(event.get("conversation", ""), ()):
            if not future.done():
                future.set_result(event)
