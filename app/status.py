"""What `switchyard status` says: what waits, how long, and what to do about it."""

from app.census import count_dead_letters
from app.engines import read_engines
from app.errors import StoreUnavailable
from app.installation import limits_of, mailboxes
from app.mailbox import Mailbox
from app.queue import create_celery, queue_lengths
from app.quota import MonthlyCalls
from app.redis import Store
from app.room import shortages
from app.settings import Settings

LATE_S = 30.0
PATIENCE_S = 2.0


def report(settings: Settings) -> list[str]:
    """Lines about the mailboxes and the queues; a fault comes with its mend."""
    lines: list[str] = []
    for part in (_shortages, _mailboxes, _queues):
        lines += part(settings)
    return lines


def _shortages(settings: Settings) -> list[str]:
    return [f"FAULT {shortage.line()}" for shortage in shortages(settings, patience_s=PATIENCE_S)]


def _mailboxes(settings: Settings) -> list[str]:
    store = Store(settings.redis_url.get_secret_value(), deadline_s=PATIENCE_S, timeout_s=PATIENCE_S)
    try:
        boxes = mailboxes(store, limits_of(settings)).values()
        lines = [line for box in boxes for line in _mailbox(box)]
        return [
            *lines,
            f"dead letters: {count_dead_letters(store)}",
            *_card_calls(store, settings.card_calls_per_month),
            *_engines(store),
        ]
    except StoreUnavailable as exc:
        return [f"FAULT the record does not answer ({exc}): look at data/logs/redis-1.log or SWITCHYARD_REDIS_URL"]
    finally:
        store.close()


def _mailbox(box: Mailbox) -> list[str]:
    census = box.census()
    counts = f"{census.waiting} waiting, {census.in_work} in work, oldest waiting {census.oldest_s:.0f} s"
    lines = [f"{box.box}: {counts}"]
    if census.oldest_s > LATE_S and not census.in_work:
        lines.append(f"FAULT nothing moves in the {box.box}: is a worker of its queue ready (switchyard ps)?")
    return lines


def _card_calls(store: Store, limit: int) -> list[str]:
    if not limit:
        return []
    used = MonthlyCalls(store, limit).used()
    return [f"card calls this month: {used} of {limit}" + (", answers go as Markdown" if used >= limit else "")]


def _engines(store: Store) -> list[str]:
    return [
        f"engine {worker}: {one.running} of {one.slots} slots in use, {one.waiting} waiting, "
        f"{one.tokens_per_s or 0:g} tokens/s"
        for worker, one in read_engines(store).items()
    ]


def _queues(settings: Settings) -> list[str]:
    celery = create_celery("switchyard.status", settings.broker_url.get_secret_value())
    lengths = queue_lengths(celery)
    if lengths is None:
        return ["FAULT the broker does not answer: look at data/logs/broker-1.log or SWITCHYARD_BROKER_URL"]
    return [f"queue {name}: {length} wake-ups" for name, length in lengths.items()]
