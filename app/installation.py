"""What all processes of an installation agree on: limits out of the settings, and the format of the record."""

import time
from typing import Final

from app import keys
from app.acceptance import Limits
from app.errors import BadSetting, StoreUnavailable
from app.keys import Box
from app.mailbox import Mailbox
from app.message import VERSION
from app.redis import Store
from app.settings import Settings

PATIENCE_S: Final = 15.0  # with a record that does not answer, before a process gives up its start
AGAIN_S: Final = 0.2


def limits_of(settings: Settings) -> Limits:
    return Limits(
        lease_s=settings.lease_s,
        dedupe_s=settings.dedupe_s,
        inbox_limit=settings.inbox_limit,
        waiting_limit=settings.waiting_limit,
        stale_after_s=settings.stale_after_s,
        context_s=settings.context_s,
    )


def mailboxes(store: Store, limits: Limits) -> dict[Box, Mailbox]:
    """The three kinds of mailbox on one record."""
    boxes: tuple[Box, ...] = ("inbox", "outbox", "control")
    return {box: Mailbox(store, box, limits) for box in boxes}


def check_record(store: Store) -> None:
    """Write the number of shards at the first start; stop when the record was made with another.

    A node of a cluster that is silent keeps nobody from starting.

    Raises:
        BadSetting: the record is not ours to read.
        StoreUnavailable: nobody answered.
    """
    if store.is_lone_node():
        raise BadSetting("SWITCHYARD_REDIS_URL: this server is a node of a cluster; write redis+cluster://host:port")
    for shards in filter(None, _made_for(store)):
        if int(shards) != keys.SHARDS:
            raise BadSetting(
                f"SWITCHYARD_REDIS_URL: this record has {int(shards)} shards, this version uses {keys.SHARDS}; "
                "drain it with the version that wrote it, or name an empty one"
            )


def _made_for(store: Store) -> list[int | None]:
    """What each shard says; None where nobody answered."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            calls = [([keys.made_for(shard)], [keys.SHARDS, VERSION]) for shard in range(keys.SHARDS)]
            return store.pipelined("made_for", calls)
        except StoreUnavailable:
            if time.monotonic() > end:
                raise
        time.sleep(AGAIN_S)


def replies_stream(settings: Settings) -> bool:
    """Whether an answer is shown while it is written."""
    has_template = bool(settings.dingtalk_card_template_id)
    return settings.reply_mode == "stream" or (settings.reply_mode == "auto" and has_template)


def replies_in_cards(settings: Settings) -> bool:
    """Whether a final answer goes into a card."""
    return settings.reply_mode == "card" or replies_stream(settings)
