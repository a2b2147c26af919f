"""What the record really holds, read and edited behind the mailbox's back. Time passes here, without waiting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from app import keys
from app.keys import Box
from tests.app.mailbox_model import Due, Place

LONG_AGO_MS = 1
LEASE_S, PAUSE_S = 3600.0, 7200.0


@dataclass(frozen=True)
class Seen:
    """One mailbox as it is stored, in the model's words."""

    items: list[tuple[Any, ...]]
    held: tuple[int, str, bool] | None  # token, head, expired
    due: Due
    stop: str  # the id of the message that is to be stopped
    ttl_ms: int  # of the state: -2 there is none, -1 for ever


def of_model(place: Place) -> tuple[Any, ...]:
    """What `Seen` must show."""
    items = [
        (i.id, i.queue, _order(i.queue, i.sent_ms), i.text, i.note, i.raised, i.vanished, i.forwards, i.paused, i.old)
        for i in place.items
    ]
    held = place.held and (place.held.token, place.held.head, place.held.expired)
    return items, held, place.due, place.stop


class View:
    """Reads and edits one record. `server_of`: the server that has a key, if the client is a cluster's."""

    def __init__(self, client: redis.Redis, server_of: Callable[[str], redis.Redis] | None = None) -> None:
        self.client: Any = client  # the stubs know only of answers in either encoding
        self._server_of: Callable[[str], Any] = server_of or (lambda _: client)

    def see(self, box: Box, conversation: str) -> Seen:
        pipe = self._server_of(keys.items(box, conversation)).pipeline(transaction=True)
        pipe.time()
        pipe.lrange(keys.items(box, conversation), 0, -1)
        pipe.hmget(keys.state(box, conversation), "token", "head", "until", "stop")
        pipe.zscore(keys.due(box, keys.shard_of(conversation)), conversation)
        pipe.pttl(keys.state(box, conversation))
        (seconds, micros), packed, (token, head, until, stop), score, ttl = pipe.execute()
        now = seconds * 1000 + micros // 1000
        name = "" if head == b"draft" else (head or b"").decode()
        held = (int(token), name, int(until) <= now) if token else None
        return Seen([_item(one, now) for one in packed], held, _due(score, now), (stop or b"").decode(), ttl)

    def counter(self, box: Box, shard: int) -> int:
        return int(self.client.get(keys.waiting(box, shard)) or 0)

    def cards(self, shard: int) -> set[str]:
        """Ids of the messages whose card is open."""
        return {name.decode() for name in self.client.hkeys(keys.cards(shard))}

    def draft(self, conversation: str) -> tuple[str, int, str, int, int] | None:
        """(id, token, text, version, version shown)."""
        found = self.client.hmget(keys.draft(conversation), "id", "token", "text", "n", "sent")
        if found[0] is None:
            return None
        return found[0].decode(), int(found[1]), found[2].decode(), int(found[3]), int(found[4] or 0)

    def expire(self, box: Box, conversation: str) -> None:
        """The time of a lease is over, and whoever was woken for it was woken before."""
        self.client.hset(keys.state(box, conversation), "until", LONG_AGO_MS)
        self.forget_waking(box, conversation)
        self.look_again_now(box, conversation)

    def look_again_now(self, box: Box, conversation: str) -> None:
        """The time to look again has come."""
        self.client.zadd(keys.due(box, keys.shard_of(conversation)), {conversation: LONG_AGO_MS}, xx=True)

    def forget_waking(self, box: Box, conversation: str) -> None:
        """The last wake-up was long ago."""
        if self.client.hexists(keys.state(box, conversation), "woken"):
            self.client.hset(keys.state(box, conversation), "woken", LONG_AGO_MS)

    def end_pauses(self, box: Box, conversation: str) -> None:
        self._edit(box, conversation, "later", only_if_there=True)

    def grow_old(self, box: Box, conversation: str) -> None:
        """Everything that waits was accepted long ago."""
        self._edit(box, conversation, "since", only_if_there=False)

    def _edit(self, box: Box, conversation: str, field: str, *, only_if_there: bool) -> None:
        name = keys.items(box, conversation)
        for rank, packed in enumerate(self.client.lrange(name, 0, -1)):
            item = msgspec.msgpack.decode(packed)
            if field in item or not only_if_there:
                self.client.lset(name, rank, msgspec.msgpack.encode(item | {field: LONG_AGO_MS}))


def _order(queue: str, sent_ms: int) -> int:
    """Replies stand in the order in which they were appended; their time says nothing."""
    return 0 if queue == "send" else sent_ms


def _item(packed: bytes, now: int) -> tuple[Any, ...]:
    item = msgspec.msgpack.decode(packed)
    text = msgspec.json.decode(item["body"]).get("text", "")
    counts = item["raised"], item["vanished"], item["forwards"]
    paused, old = item.get("later", 0) > now, item["since"] == LONG_AGO_MS
    sent = _order(item["queue"], item["at"])
    return item["id"], item["queue"], sent, text, item["note"], *counts, paused, old


def _due(score: float | None, now: int) -> Due:
    if score is None:
        return ""
    if score == LONG_AGO_MS:
        return "past"
    ahead_s = (score - now) / 1000
    return "pause" if ahead_s > (LEASE_S + PAUSE_S) / 2 else "lease" if ahead_s > LEASE_S / 2 else "soon"
