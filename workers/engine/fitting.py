"""Trim a conversation until prompt and answer fit. Pure: the engine brings its own measure of tokens."""

from bisect import bisect_left
from collections.abc import Callable

from app.errors import RequestRejected

Messages = tuple[tuple[str, str], ...]
Measure = Callable[[Messages], int]

GAP = "\n…\n"  # stands where the middle of a text was cut out
CHARS_PER_TOKEN = 32  # no usual text has more; spares measuring what is far too long
STEPS = 4  # a long conversation loses its oldest quarter at once, not a little at every turn


def fit_messages(messages: Messages, *, limit_tokens: int, max_new_tokens: int, measure: Measure) -> Messages:
    """Drop the oldest messages, never a leading system message nor the last, until the answer fits too.

    What is left begins at the same message for several turns: an engine has it in its cache then.
    If the last message alone is too long, its middle is cut out. An answer may take at most half of the limit here:
    when more is asked for, the prompt still gets the other half.

    Raises:
        RequestRejected: not even the leading system message leaves room.
    """
    room = limit_tokens - min(max_new_tokens, limit_tokens // 2)
    if not messages or (whole := measure(messages)) <= room:
        return messages
    step = max(1, room // STEPS)
    dropped = -(-(whole - room) // step) * step
    first = 1 if messages[0][0] == "system" and len(messages) > 1 else 0
    candidates = [messages[:first] + messages[start:] for start in _starts(messages, first)]
    for most in (whole - dropped, room):
        fits = bisect_left(candidates, True, key=lambda candidate, most=most: measure(candidate) <= most)  # type: ignore[misc]
        if fits < len(candidates):
            return candidates[fits]
    return _cut_last(candidates[-1], room, measure)


def _starts(messages: Messages, first: int) -> list[int]:
    """Where the kept part may begin: an answer is never kept without its question."""
    last = len(messages) - 1
    return [i for i in range(first + 1, last) if messages[i][0] != "assistant"] + [last]


def _cut_last(messages: Messages, room: int, measure: Measure) -> Messages:
    *before, (role, text) = messages

    def kept(chars: int) -> Messages:
        return (*before, (role, shorten(text, chars)))

    most = min(len(text), room * CHARS_PER_TOKEN)
    # The longest that fits: the first length that does not fit, less one.
    longest = bisect_left(range(most + 1), True, key=lambda chars: measure(kept(chars)) > room) - 1
    if longest < 0:
        raise RequestRejected("messages: the system message leaves no room for a question")
    return kept(longest)


def shorten(text: str, chars: int) -> str:
    """Keep the first and the last characters, `chars` in all, with a gap between them."""
    if chars >= len(text):
        return text
    head = (chars + 1) // 2
    return text[:head] + GAP + text[len(text) - (chars - head) :]
