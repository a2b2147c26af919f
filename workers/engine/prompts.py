"""Messages -> prompt tokens, by the model's own chat template."""

import threading
from typing import Any

from jinja2 import TemplateError

from app.errors import BadSetting, RequestRejected

Messages = tuple[tuple[str, str], ...]

ZERO_WIDTH_SPACE = "\u200b"


class Prompts:
    """A tokenizer with its chat template.

    Raises:
        BadSetting: the model has no chat template, so it is not made to answer people.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise BadSetting("SWITCHYARD_MODEL: this model has no chat template; take its chat or instruct variant")
        self._tokenizer = tokenizer
        self._control = _control_tokens(tokenizer)
        self._one_at_a_time = threading.Lock()  # a tokenizer refuses a call while another thread changes its options

    def encode(self, messages: Messages) -> list[int]:
        """The prompt's tokens, up to where the answer begins.

        Raises:
            RequestRejected: the model's template does not take these messages.
        """
        chat = [{"role": role, "content": self.defused(text)} for role, text in messages]
        try:
            text = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        except TemplateError as exc:
            raise RequestRejected("messages: the model's chat template does not take these roles") from exc
        with self._one_at_a_time:
            ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def measure(self, messages: Messages) -> int:
        """How many tokens the prompt of these messages has."""
        return len(self.encode(messages))

    def decode(self, tokens: list[int]) -> str:
        """The text of answer tokens, without control tokens."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def defused(self, text: str) -> str:
        """The text with each control token broken up: nobody ends their own turn and speaks as the system.

        Halves of characters, which JSON can bring and no tokenizer takes, are question marks.
        """
        text = text.encode("utf-8", "replace").decode()
        for token in self._control:
            text = text.replace(token, token[0] + ZERO_WIDTH_SPACE + token[1:])
        return text


def _control_tokens(tokenizer: Any) -> list[str]:
    """The special tokens, the longest first. Not the merely added ones: some models add runs of blanks."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(filter(str.strip, added | set(tokenizer.all_special_tokens)), key=len, reverse=True)
