"""DingTalk's way out: the sender's verbs as calls of the API."""

import time
from collections.abc import Callable
from typing import Self

from app.channels.dingtalk import cards
from app.channels.dingtalk.api import DOWNLOAD_LIMIT_BYTES, NO_FENCE, DingTalkApi
from app.channels.outlet import Fence
from app.errors import PlatformRefused
from app.message import Address, Attachment


class DingTalkOutlet:
    """Implements app.channels.outlet.Outlet, and the download of attachments."""

    def __init__(
        self,
        api: DingTalkApi,
        robot_code: str,
        template_id: str,
        content_key: str,
        *,
        wall: Callable[[], float] = time.time,
        fence: Fence = NO_FENCE,
    ) -> None:
        self._api = api
        self._robot_code = robot_code
        self._template_id = template_id
        self._content_key = content_key
        self._wall = wall
        self._fence = fence

    def under(self, fence: Fence) -> Self:
        """The same way out, each call under this fence."""
        return type(self)(
            self._api, self._robot_code, self._template_id, self._content_key, wall=self._wall, fence=fence
        )

    def can_card(self, address: Address) -> bool:
        """A template is set, and the platform knows whom to show the card to."""
        return bool(self._template_id) and bool(address.chat if address.group else address.person)

    def open_card(self, card: str, address: Address, text: str) -> None:
        """Show a card with a first text; a second call for the same `card` shows nothing new."""
        if not self.can_card(address):
            raise PlatformRefused("card.address")
        body = cards.create_body(card, address, text, template=self._template_id, key=self._content_key)
        self._api.create_card(body, self._fence)

    def update_card(self, card: str, text: str, *, key: str) -> None:
        """Replace the text of an open card; PlatformBusy at once if calls are short."""
        self._api.draft_card(cards.update_body(card, text, guid=key, key=self._content_key), self._fence)

    def finish_card(self, card: str, text: str, *, key: str) -> None:
        """Replace the text for the last time and end the typing."""
        self._api.finish_card(cards.finish_body(card, text, guid=key, key=self._content_key), self._fence)

    def fail_card(self, card: str, text: str, *, key: str) -> None:
        """End a card that will not get its answer, with a short text; by its variables if it takes no streaming."""
        try:
            self._api.finish_card(cards.fail_body(card, text, guid=key, key=self._content_key), self._fence)
        except PlatformRefused:
            self._api.set_card(cards.failed_body(card, text, key=self._content_key), self._fence)

    def by_webhook(self, address: Address, text: str) -> None:
        """Send Markdown through the session's webhook, mentioning the person in a group. Not idempotent."""
        if not address.webhook:
            raise PlatformRefused("webhook.missing")
        if address.webhook_expires_at and self._wall() >= address.webhook_expires_at:
            raise PlatformRefused("webhook.expired")
        self._api.post_webhook(address.webhook, cards.webhook_body(address, text), self._fence)

    def proactively(self, address: Address, text: str) -> None:
        """Send Markdown by the robot's own API. Not idempotent."""
        if address.group:
            self._api.send_to_group(cards.group_body(address, text), self._fence)
        elif address.person:
            self._api.send_to_person(cards.person_body(address, text), self._fence)
        else:
            raise PlatformRefused("person.missing")  # somebody outside the organisation

    def split(self, text: str) -> list[str]:
        """Cut a text at the platform's limit for one message."""
        return cards.split(text)

    def download(self, attachment: Attachment, limit_bytes: int = DOWNLOAD_LIMIT_BYTES) -> bytes:
        """The bytes of an attachment. Raises BadPicture or PlatformBusy."""
        return self._api.download(attachment.code, self._robot_code, limit_bytes=limit_bytes)
