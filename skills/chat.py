"""Answer a text with the model, knowing what was said before."""

from typing import ClassVar

from skills.sdk import Answer, Message, SkillPlugin


class Chat(SkillPlugin):
    """The skill behind every text that is no command."""

    summary: ClassVar = {"en": "talk with the assistant", "zh-CN": "与助手对话"}
    kinds = ("text",)
    queue = "text"
    remembers = True

    def execute(self, processed: Message) -> str | Answer:
        if not processed.text.strip():
            return Answer(text=self.context.wording("empty_text"), remember=False)
        return self.context.ask()
