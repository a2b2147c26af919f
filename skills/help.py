"""/help: what there is. Also the answer to a command that nobody has."""

from typing import ClassVar

from skills.sdk import Message, SkillPlugin

SHOWN_CHARACTERS = 32  # of an unknown command


class Help(SkillPlugin):
    """Lists every command that this person may use."""

    summary: ClassVar = {"en": "show this list", "zh-CN": "显示这份列表"}
    commands = ("help",)

    def execute(self, processed: Message) -> str:
        # /stop is no skill: it never waits in line. It belongs in the list all the same.
        known = {"stop": self.context.wording("stop_summary"), **self.context.commands()}
        lines = [self.context.wording("help_line", command=name, summary=known[name]) for name in sorted(known)]
        return "\n".join([self._first_line(word_after_slash(processed.text), known), "", *lines])

    def _first_line(self, word: str, known: dict[str, str]) -> str:
        if word in known:
            return self.context.wording("help_intro")
        return self.context.wording("unknown_command", command=word[:SHOWN_CHARACTERS])


def word_after_slash(text: str) -> str:
    """The first word, without its slash; "help" if there is none."""
    first, *_ = text.split(maxsplit=1) or [""]
    return first.removeprefix("/").lower() or "help"
