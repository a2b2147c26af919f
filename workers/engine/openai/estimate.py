"""How many tokens a text has, without the model's tokenizer. Pure.

Two answers: one that is never too small, and one that is seldom too small and near enough to use a context by it.
"""

import re
from typing import Final

from workers.engine.fitting import Messages

MESSAGE_TOKENS: Final = 8  # what a chat template puts around each message
PROMPT_TOKENS: Final = 24  # ... and around all: some templates bring a system message of their own
_LETTERS: Final = re.compile(r"[A-Za-z]+")
_FIRST_CHARS: Final = 4  # of a run of Latin letters make one token, and so do
_MORE_CHARS: Final = 2.5  # ... of the rest
_MARGIN: Final = 1.1
_BLANKS: Final = re.compile(r"[ ]+")  # before a word they belong to it


def at_most(messages: Messages) -> int:
    """Never too small: no tokenizer in use makes more tokens than a text has bytes."""
    return PROMPT_TOKENS + sum(MESSAGE_TOKENS + len(text.encode("utf-8", "replace")) for _, text in messages)


def estimated(messages: Messages) -> int:
    """Seldom too small: a digit or sign counts one, a character beyond ASCII one and a half, an emoji three."""
    return PROMPT_TOKENS + sum(MESSAGE_TOKENS + _estimated(text) for _, text in messages)


def _estimated(text: str) -> int:
    letters = sum(1 + max(0, len(run) - _FIRST_CHARS) / _MORE_CHARS for run in _LETTERS.findall(text))
    rest = _BLANKS.sub("", _LETTERS.sub("", text))
    others = sum(1.0 if char < "\x80" else 1.5 if char < "\U00010000" else 3.0 for char in rest)
    return 1 + int(_MARGIN * (letters + others))
