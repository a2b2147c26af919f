"""Skills of a run, for the pools beside the model: both hear no cancel, as a careless skill does."""

import time

from skills.sdk import Message, SkillPlugin

SECONDS = 1.0
LOOKING_S = 0.3


class Slow(SkillPlugin):
    """`/slow …`: says it back after a second."""

    commands = ("slow",)

    def execute(self, processed: Message) -> str:
        time.sleep(SECONDS)
        return processed.text.removeprefix("/slow").strip()


class Picture(SkillPlugin):
    """A picture: says what its bytes say, after a look."""

    kinds = ("picture",)
    queue = "image"

    def execute(self, processed: Message) -> str:
        time.sleep(LOOKING_S)
        return self.context.read(processed.attachments[0]).decode(errors="replace")
