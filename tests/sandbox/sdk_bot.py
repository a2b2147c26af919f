"""A bot on the vendor's own SDK, run as a process: the SDK reads its endpoint when it is imported."""

import asyncio
import os
from typing import Any

import dingtalk_stream
import requests
from dingtalk_stream import AckMessage, AICardReplier, ChatbotMessage

TEMPLATE = os.environ["DINGTALK_CARD_TEMPLATE_ID"]


class Client(dingtalk_stream.DingTalkStreamClient):  # type: ignore[misc]
    """The SDK's client; it would ask a host of the internet for the local address."""

    def get_host_ip(self) -> str:
        return "127.0.0.1"


class Bot(dingtalk_stream.ChatbotHandler):  # type: ignore[misc]
    """Answers a text by webhook or by card, and a picture with its size."""

    async def process(self, callback: Any) -> tuple[int, str]:
        message = ChatbotMessage.from_dict(callback.data)
        if message.message_type == "picture":
            url = self.get_image_download_url(message.get_image_list()[0])
            self.reply_text(f"{len(requests.get(url, timeout=5).content)} bytes", message)
        elif "card" in message.text.content:
            self.by_card(message, message.text.content.strip())
        else:
            said = f"{message.sender_nick} {message.sender_staff_id} {message.conversation_type}"
            self.reply_text(f"{said}:{message.text.content}", message)
        return AckMessage.STATUS_OK, "OK"

    def by_card(self, message: ChatbotMessage, text: str) -> None:
        """`start` creates and delivers in two calls, `create_and_deliver_card` in one."""
        replier = AICardReplier(self.dingtalk_client, message)
        begin = replier.start if "two" in text else replier.create_and_deliver_card
        card = begin(TEMPLATE, {"content": "thinking"})
        replier.streaming(card, "content", f"half of {text}", append=False, finished=False, failed=False)
        replier.streaming(card, "content", f"whole of {text}", append=False, finished=True, failed=False)


def main() -> None:
    credential = dingtalk_stream.Credential(os.environ["DINGTALK_CLIENT_ID"], os.environ["DINGTALK_CLIENT_SECRET"])
    client = Client(credential)
    client.register_callback_handler(ChatbotMessage.TOPIC, Bot())
    asyncio.run(client.start())


if __name__ == "__main__":
    main()
