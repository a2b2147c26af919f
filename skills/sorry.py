"""A short honest sentence for what we cannot read."""

from typing import ClassVar

from skills.sdk import Answer, Message, SkillPlugin

# The platform's words for which the wording has a name, as `kind_<word>`.
NAMED = ("audio", "video", "file", "richText", "chatRecord")


TOO_LONG = "text.too_long"  # the channel's word for a text over its limit


class Sorry(SkillPlugin):
    """Names the kind of message, and says what would work."""

    summary: ClassVar = {"en": "says what cannot be read", "zh-CN": "说明哪些消息读不了"}
    kinds = ("unsupported",)

    def execute(self, processed: Message) -> Answer:
        if processed.platform_kind == TOO_LONG:
            return Answer(text=self.context.wording("text_too_long"), remember=False)
        kind = processed.platform_kind if processed.platform_kind in NAMED else "other"
        named = self.context.wording(f"kind_{kind}")
        return Answer(text=self.context.wording("unsupported", kind=named), remember=False)
