"""/new: forget what was said before."""

from typing import ClassVar

from skills.sdk import Answer, Message, SkillPlugin


class New(SkillPlugin):
    """Empties the conversation's context."""

    summary: ClassVar = {"en": "forget what we talked about", "zh-CN": "忘掉之前聊的内容，重新开始"}
    commands = ("new",)

    def execute(self, processed: Message) -> Answer:
        return Answer(text=self.context.wording("new_done"), remember=False, forget=True)
