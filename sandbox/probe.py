"""The smallest app of the platform, for checks of the sandbox itself: opens, listens, acknowledges, calls."""

import json
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import httpx
from websockets.sync.client import ClientConnection, connect

from sandbox.door import TOKEN_HEADER
from sandbox.frames import BOT_MESSAGES, CARD_CALLBACK
from sandbox.process import Sandbox

Json = dict[str, Any]

OPEN_S = 5.0
# Short, because some sockets are made deaf and can never answer a goodbye.
CLOSE_S = 0.3


class Probe:
    """One app with one access token and any number of sockets."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self._token = ""
        self._sockets = ExitStack()
        self.http = httpx.Client(base_url=box.url, timeout=10, trust_env=False)

    def open(self, **changes: Any) -> httpx.Response:
        """Ask for a ticket; `changes` replace fields of the request."""
        topics = [{"type": "CALLBACK", "topic": BOT_MESSAGES}, {"type": "CALLBACK", "topic": CARD_CALLBACK}]
        body = {
            "clientId": self.box.client_id,
            "clientSecret": self.box.client_secret,
            "subscriptions": topics,
            "ua": "probe/1.0",
            "localIp": "127.0.0.1",
            **changes,
        }
        return self.http.post("/v1.0/gateway/connections/open", json=body, headers={"Accept": "application/json"})

    def connect(self, ticket: str | None = None, **options: Any) -> ClientConnection:
        """A new socket. Raises websockets' InvalidStatus for a bad ticket."""
        opened = self.open().json()
        url = f"{opened['endpoint']}?ticket={ticket or opened['ticket']}"
        opening = connect(url, open_timeout=OPEN_S, close_timeout=CLOSE_S, proxy=None, **options)
        socket: ClientConnection = self._sockets.enter_context(opening)
        return socket

    def token(self) -> str:
        """A fresh access token, used from now on."""
        body = {"appKey": self.box.client_id, "appSecret": self.box.client_secret}
        self._token = str(
            self.http.post("/v1.0/oauth2/accessToken", json=body).raise_for_status().json()["accessToken"]
        )
        return self._token

    def call(self, method: str, route: str, body: Json, token: str | None = None) -> httpx.Response:
        """One call of the API with the token, whatever comes of it."""
        used = token if token is not None else self._token or self.token()
        return self.http.request(method, route, json=body, headers={TOKEN_HEADER: used})

    def create_card(self, card: str, staff: str = "staff-ann", **changes: Any) -> httpx.Response:
        """Show a card in a person's talk with the robot."""
        body = {
            "cardTemplateId": self.box.template_id,
            "outTrackId": card,
            "callbackType": "STREAM",
            "cardData": {"cardParamMap": {"content": "", "flowStatus": "1"}},
            "userIdType": 1,
            "openSpaceId": f"dtv1.card//IM_ROBOT.{staff}",
            "imRobotOpenSpaceModel": {"supportForward": True},
            "imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT", "robotCode": self.box.client_id},
            **changes,
        }
        return self.call("POST", "/v1.0/card/instances/createAndDeliver", body)

    def stream(self, card: str, text: str, guid: str, **changes: Any) -> httpx.Response:
        """Type into a card."""
        flags = {"isFull": True, "isFinalize": False, "isError": False}
        body = {"outTrackId": card, "guid": guid, "key": "content", "content": text, **flags, **changes}
        return self.call("PUT", "/v1.0/card/streaming", body)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sockets.close()
        self.http.close()


def next_frame(socket: ClientConnection, topic: str = BOT_MESSAGES, timeout_s: float = 5) -> Json:
    """The next frame of a topic, others left out. Raises TimeoutError."""
    while True:
        frame: Json = json.loads(socket.recv(timeout=timeout_s))
        if frame["headers"]["topic"] == topic:
            return frame


def acknowledge(socket: ClientConnection, frame: Json, data: Any = None, code: int = 200) -> None:
    """Acknowledge a frame; `data` is what the ack carries."""
    headers = {"contentType": "application/json", "messageId": frame["headers"]["messageId"]}
    carried = json.dumps({"response": None} if data is None else data)
    socket.send(json.dumps({"code": code, "headers": headers, "message": "OK", "data": carried}))
