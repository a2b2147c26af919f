"""A turn's context without a turn: it gives what it was told to give, and keeps what it was asked."""

from collections.abc import Mapping, Sequence

from app.message import Address, Attachment, Kind, Message, Said
from app.wording import Wording


class StandInContext:
    """Everything that a skill may use."""

    def __init__(
        self,
        *,
        locale: str = "en",
        answer: str = "",
        files: Mapping[str, bytes] | None = None,
        commands: Mapping[str, str] | None = None,
        waiting: tuple[int, float] = (0, 0.0),
    ) -> None:
        self.history: tuple[Said, ...] = ()
        self.locale = locale
        self.asked = 0
        self._answer, self._files, self._commands, self._waiting = answer, files or {}, commands or {}, waiting
        self._wording = Wording(locale)

    def ask(
        self, messages: Sequence[Said] | None = None, *, temperature: float | None = None, adapter: str | None = None
    ) -> str:
        self.asked += 1
        return self._answer

    def read(self, attachment: Attachment) -> bytes:
        return self._files[attachment.code]

    def wording(self, key: str, **fields: object) -> str:
        return self._wording.say(key, **fields)

    def commands(self) -> Mapping[str, str]:
        return self._commands

    def waiting(self) -> tuple[int, float]:
        return self._waiting


def a_message(text: str = "", kind: Kind = "text", *, pictures: Sequence[str] = (), platform_kind: str = "") -> Message:
    """A message of Ann's to the bot; `pictures` are codes to download by."""
    return Message(
        id="dingtalk:bot:m1",
        conversation="dingtalk:bot:cid1:ann",
        kind=kind,
        sent_at=0.0,
        address=Address(channel="dingtalk", robot="bot", chat="cid1", group=False),
        text=text,
        attachments=tuple(Attachment(kind="picture", code=code) for code in pictures),
        platform_kind=platform_kind,
    )
