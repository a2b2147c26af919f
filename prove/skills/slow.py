"""`/slow …`: says it back after a second, and hears no cancel: what a careless skill does."""

import time

from skills.sdk import Message, SkillPlugin

SECONDS = 1.0


class Slow(SkillPlugin):
    commands = ("slow",)

    def execute(self, processed: Message) -> str:
        time.sleep(SECONDS)
        return processed.text.removeprefix("/slow").strip()
