"""How long the line is: what waits in all mailboxes of a kind, and what is in work. Only read, never changed."""

from dataclasses import dataclass
from typing import Any

from app import keys
from app.keys import Box
from app.redis import Store

LOOK_AT_MOST = 500  # conversations of a shard; beyond it `in_work` and `oldest_s` say what these say


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """All mailboxes of a kind, counted while they change."""

    waiting: int  # items that nobody has
    in_work: int  # mailboxes that somebody has, for their head or for a draft
    oldest_s: float  # for so long the oldest head that nobody has waited since it was accepted; 0 if there is none


@dataclass(frozen=True, slots=True)
class Front:
    """The front of one mailbox: the age of its head, None if it is empty, and whether somebody has it."""

    age_s: float | None
    leased: bool


def count_items(store: Store, box: Box) -> int:
    """How many items all mailboxes of a kind hold, those in work included. Raises StoreUnavailable."""
    names = [keys.waiting(box, shard) for shard in range(keys.SHARDS)]
    counts: list[Any] = [store.at(name, lambda server, name=name: server.get(name)) for name in names]  # type: ignore[misc]
    return sum(int(count or 0) for count in counts)


def take_overdue(store: Store, box: Box, at_most: int) -> list[tuple[float, int, str]]:
    """(due since, shard, conversation) of what is due in all mailboxes of a kind, oldest first a shard. Not repeated.

    Without the shards whose node of a cluster does not answer: the others are swept all the same.
    Raises StoreUnavailable if nobody answers.
    """
    calls = [([keys.due(box, shard)], [at_most]) for shard in range(keys.SHARDS)]
    return [
        (float(score) / 1000, shard, name.decode())
        for shard, flat in enumerate(store.pipelined("overdue", calls))
        for name, score in zip((flat or ())[::2], (flat or ())[1::2], strict=True)
    ]


def count_dead_letters(store: Store) -> int:
    """How many dead letters are kept. Raises StoreUnavailable."""
    names = [keys.dead(shard) for shard in range(keys.SHARDS)]
    return sum(store.at(name, lambda server, name=name: int(server.zcard(name))) for name in names)  # type: ignore[misc]


def take_census(store: Store, box: Box) -> Census:
    """Count what waits and what is in work, and find the oldest. Raises StoreUnavailable."""
    items = count_items(store, box)
    return _counted(items, [front for shard in range(keys.SHARDS) for front in _fronts(store, box, shard)])


def _counted(items: int, fronts: list[Front]) -> Census:
    held = sum(front.leased and front.age_s is not None for front in fronts)
    ages_s = [front.age_s for front in fronts if front.age_s is not None and not front.leased]
    return Census(
        waiting=max(0, items - held),
        in_work=sum(front.leased for front in fronts),
        oldest_s=max(ages_s, default=0.0),
    )


def _fronts(store: Store, box: Box, shard: int) -> list[Front]:
    """What stands in the due index is all that waits or is in work."""
    name = keys.due(box, shard)
    due: Any = store.at(name, lambda server: server.zrange(name, 0, LOOK_AT_MOST - 1))
    conversations = [name.decode() for name in due]
    if not conversations:
        return []
    places = [name for one in conversations for name in (keys.items(box, one), keys.state(box, one))]
    flat = store.run("ages", places, [])
    return [
        Front(None if age_ms < 0 else age_ms / 1000, bool(leased))
        for age_ms, leased in zip(flat[::2], flat[1::2], strict=True)
    ]
