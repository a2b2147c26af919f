"""A chat that kills its own process when it is told to."""

import os
import signal
import time

from skills.sdk import Message, SkillPlugin


class Fragile(SkillPlugin):
    kinds = ("text",)
    queue = "text"

    def execute(self, processed: Message) -> str:
        if "poison" in processed.text:
            time.sleep(0.2)  # the others of the batch are on their way too
            os.kill(os.getpid(), signal.SIGKILL)
        return self.context.ask()
