"""A bare client of the sandbox, to learn what it pushes."""

import json
from collections.abc import Callable
from typing import Any

import httpx
from websockets.sync.client import connect

from sandbox.process import Sandbox
from tests.app.channels.dingtalk.frames import ROBOT_TOPIC


def one_callback(sandbox: Sandbox, say: Callable[[], object]) -> dict[str, Any]:
    """The decoded data of the robot message that `say` makes the sandbox push."""
    request = {
        "clientId": sandbox.client_id,
        "clientSecret": sandbox.client_secret,
        "subscriptions": [{"type": "CALLBACK", "topic": ROBOT_TOPIC}],
    }
    url, headers = f"{sandbox.url}/v1.0/gateway/connections/open", {"Accept": "application/json"}
    opened = httpx.post(url, json=request, headers=headers).raise_for_status().json()
    with connect(f"{opened['endpoint']}?ticket={opened['ticket']}") as socket:
        say()
        while True:
            frame = json.loads(socket.recv(timeout=5))
            if frame["type"] == "CALLBACK":
                data: dict[str, Any] = json.loads(frame["data"])
                return data
