"""What all processes of an installation agree on: limits out of the settings, and the format of the record."""

from app import keys
from app.acceptance import Limits
from app.errors import BadSetting
from app.keys import Box
from app.mailbox import Mailbox
from app.message import VERSION
from app.redis import Store
from app.settings import Settings


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

    Raises:
        BadSetting: the record is not ours to read.
        StoreUnavailable: it did not answer.
    """

    def agree() -> dict[bytes, bytes]:
        if known := store.client.hgetall(keys.FORMAT):  # a record that is full takes no write, and needs none
            return known  # type: ignore[return-value]
        store.client.hsetnx(keys.FORMAT, "shards", str(keys.SHARDS))
        store.client.hsetnx(keys.FORMAT, "version", str(VERSION))
        return store.client.hgetall(keys.FORMAT)  # type: ignore[return-value]

    if store.is_lone_node():
        raise BadSetting("SWITCHYARD_REDIS_URL: this server is a node of a cluster; write redis+cluster://host:port")
    kept = store.repeat(agree)
    if int(kept[b"shards"]) != keys.SHARDS:
        raise BadSetting(
            f"SWITCHYARD_REDIS_URL: this record has {int(kept[b'shards'])} shards, this version uses {keys.SHARDS}; "
            "drain it with the version that wrote it, or name an empty one"
        )


def replies_stream(settings: Settings) -> bool:
    """Whether an answer is shown while it is written."""
    has_template = bool(settings.dingtalk_card_template_id)
    return settings.reply_mode == "stream" or (settings.reply_mode == "auto" and has_template)


def replies_in_cards(settings: Settings) -> bool:
    """Whether a final answer goes into a card."""
    return settings.reply_mode == "card" or replies_stream(settings)
