"""What `accept` is measured against: the vendor's SDK with a handler that hands over to a Celery task and returns OK.

`python -m benchmarks.peer`. The broker gets the person's words, and nothing else is stored.
"""

import asyncio
import logging
from typing import Any

import dingtalk_stream
from celery import Celery
from dingtalk_stream import AckMessage, ChatbotMessage

from app.settings import Settings, load_settings

QUEUE = "peer"


class Client(dingtalk_stream.DingTalkStreamClient):  # type: ignore[misc]
    """The SDK's client; it would ask a host of the internet for the local address."""

    def get_host_ip(self) -> str:
        return "127.0.0.1"


class Handler(dingtalk_stream.ChatbotHandler):  # type: ignore[misc]
    """One line of work: the rest is the SDK's and Celery's own."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self._task = task

    async def process(self, callback: Any) -> tuple[int, str]:
        said = callback.data
        self._task.apply_async((said["conversationId"], said["senderId"], said["text"]["content"]))
        return AckMessage.STATUS_OK, "OK"


def task_of(broker_url: str) -> Any:
    """The task of an app with Celery's own settings, except that no result is kept."""
    celery = Celery("peer", broker=broker_url)
    celery.conf.update(task_ignore_result=True, task_default_queue=QUEUE)

    @celery.task(name="peer.answer")
    def answer(conversation: str, sender: str, text: str) -> None:
        raise NotImplementedError("nothing consumes this queue")

    return answer


def client_of(settings: Settings) -> Client:
    """The SDK's client with the handler."""
    secret = settings.dingtalk_client_secret.get_secret_value()
    credential = dingtalk_stream.Credential(settings.dingtalk_client_id, secret)
    client = Client(credential, logging.getLogger("peer"))  # its own logger writes the ticket
    client.register_callback_handler(ChatbotMessage.TOPIC, Handler(task_of(settings.broker_url.get_secret_value())))
    return client


if __name__ == "__main__":
    asyncio.run(client_of(load_settings()).start())
