"""What was said before, per conversation: read here, written by the same commit as the reply."""

from typing import Any

import structlog

from app import keys
from app.errors import MalformedFrame
from app.message import Remembered, Said
from app.redis import Store
from app.wire import decode_context, encode

log = structlog.get_logger()

MAX_BYTES = 64 * 1024
MAX_LINES = 50


def recall(store: Store, conversation: str) -> tuple[Said, ...]:
    """What was said before, oldest first; empty if there was nothing, it has expired, or it cannot be read.

    Raises:
        StoreUnavailable: the record did not answer.
    """
    name = keys.context(conversation)
    stored: Any = store.at(name, lambda server: server.get(name))
    try:
        return decode_context(stored) if stored else ()
    except MalformedFrame:  # also a newer version's; the next answer replaces it
        log.warning("the context cannot be read; the conversation begins anew")
        return ()


def extended(history: tuple[Said, ...], question: str, answer: str) -> bytes:
    """The history with one more question and answer, as it is stored; the oldest lines go first.

    At most 50 lines and 64 KiB; a question or answer that is too long for that alone is not kept.
    """
    lines = [*history, Said("user", question), Said("assistant", answer)][-MAX_LINES:]
    while len(stored := encode(Remembered(lines=tuple(lines)))) > MAX_BYTES and lines:
        del lines[:2]
    return stored
