"""All that a skill may import.

A skill is a class with `pre_process`, `execute` and `post_process`; the base class is a convenience, not a duty.
What it serves is declared as data, in class attributes; a class that declares nothing answers the command `/<file>`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from app.errors import BadPicture
from app.message import Attachment, Message, Said

__all__ = ["Answer", "Attachment", "BadPicture", "Context", "Forward", "Message", "Said", "SkillPlugin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A result with more to say than its text."""

    text: str
    remember: bool | None = None  # keep question and answer for the next turn; None: as the skill declares
    forget: bool = False  # drop everything that was said before


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Not answered here: hand the message, with this text, to another queue. Still one reply."""

    queue: str  # "text", "image" or "default"
    text: str


class Context(Protocol):
    """What a skill may use while it runs. It belongs to one turn."""

    history: tuple[Said, ...]  # what was said before, oldest first
    locale: str  # "zh-CN" or "en"

    def ask(
        self, messages: Sequence[Said] | None = None, *, temperature: float | None = None, adapter: str | None = None
    ) -> str:
        """Ask the engine and show the person the answer as it is written. Only in the pool `text`.

        `messages` is everything that the model is told, without it: the system prompt, the history, this message.
        `adapter` is the name of a LoRA adapter of the engine's.
        """
        ...

    def read(self, attachment: Attachment) -> bytes:
        """Download an attachment, within the limits on size and time. Raises BadPicture, or a transient error."""
        ...

    def wording(self, key: str, **fields: object) -> str:
        """A sentence of the assistant's own, in the locale."""
        ...

    def commands(self) -> Mapping[str, str]:
        """Every command, with one line about it."""
        ...

    def waiting(self) -> tuple[int, float]:
        """How many messages wait in the whole house, and for how many seconds the oldest of them."""
        ...


class SkillPlugin:
    """A skill. Override what you need; each step gets what the one before returned."""

    name: ClassVar[str] = ""  # empty: the name of the file
    version: ClassVar[str] = "1"
    summary: ClassVar[Mapping[str, str]] = {}  # locale -> one line for /help
    kinds: ClassVar[Sequence[str]] = ()  # kinds of message that it answers: "text", "picture", "unsupported"
    commands: ClassVar[Sequence[str]] = ()  # "help" for /help
    queue: ClassVar[str] = "default"  # the pool it runs in; "text" if it asks the engine
    time_limit_s: ClassVar[float | None] = None  # None: the installation's turn limit
    remembers: ClassVar[bool] = False  # question and answer become part of the conversation's context

    def __init__(self, context: Context) -> None:
        self.context = context

    def pre_process(self, message: Message) -> Any:
        return message

    def execute(self, processed: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__}.execute")

    def post_process(self, result: Any) -> Any:
        """The result: a text, `{"response": text}`, an Answer or a Forward."""
        return result
