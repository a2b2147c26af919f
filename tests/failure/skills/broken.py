"""Commands that go wrong in one way each, and one that does not."""

import time
from pathlib import Path

from skills.sdk import Message, SkillPlugin


class Hangs(SkillPlugin):
    """`/hang`: never returns."""

    commands = ("hang",)
    time_limit_s = 0.5

    def execute(self, processed: Message) -> str:
        while True:
            time.sleep(0.05)


class Raises(SkillPlugin):
    """`/raise <file>`: until the file is there."""

    commands = ("raise",)

    def execute(self, processed: Message) -> str:
        return Path(processed.text.split()[1]).read_text()


class Says(SkillPlugin):
    """`/say …`: says it, after a while."""

    commands = ("say",)

    def execute(self, processed: Message) -> str:
        time.sleep(1.0)
        return processed.text.removeprefix("/say ")
