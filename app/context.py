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
_KEPT_BYTES, _KEPT_LINES = MAX_BYTES * 3 // 4, 38  # of a conversation that was longer than that


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

    At most 50 lines and 64 KiB; a question or answer that is too long for that alone is not kept. Who has more loses
    the oldest quarter at once: then it begins alike for several turns, and an engine has it in its cache.
    """
    lines = [*history, Said("user", question), Said("assistant", answer)]
    most_lines, most_bytes = MAX_LINES, MAX_BYTES
    while len(stored := encode(Remembered(lines=tuple(lines)))) > most_bytes or len(lines) > most_lines:
        del lines[:2]
        most_lines, most_bytes = _KEPT_LINES, _KEPT_BYTES if len(lines) > 2 else MAX_BYTES
    return stored
