"""/status: how long the line is."""

import math
from typing import ClassVar

from skills.sdk import Message, SkillPlugin


class Status(SkillPlugin):
    """Says how many messages wait in the whole house, and for how long."""

    summary: ClassVar = {"en": "how many messages are waiting", "zh-CN": "看看有多少消息在排队"}
    commands = ("status",)

    def execute(self, processed: Message) -> str:
        count, oldest_s = self.context.waiting()
        if not count:
            return self.context.wording("status_idle")
        return self.context.wording("status_waiting", count=count, seconds=math.ceil(oldest_s))
