"""Open a connection: ask for a ticket, then connect with it.

Source: im-protocols, sections 2.1 and 2.2.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from app.channels.dingtalk.connection import Clock, Connection, Receive, Timing
from app.channels.dingtalk.exchange import ANSWER_LIMIT_BYTES, TooLarge, grow
from app.channels.dingtalk.messages import CARD_TOPIC, ROBOT_TOPIC
from app.errors import PlatformBusy, PlatformRefused

log = structlog.get_logger()

OPEN_PATH: Final = "/v1.0/gateway/connections/open"
SUBSCRIPTIONS: Final = (
    {"type": "EVENT", "topic": "*"},
    {"type": "CALLBACK", "topic": ROBOT_TOPIC},
    {"type": "CALLBACK", "topic": CARD_TOPIC},
)
# Read what is too large for us, so that it can be refused; the library would close the socket instead.
SOCKET_LIMIT_BYTES: Final = 16_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Where the platform is, and who we are to it."""

    openapi: str  # "https://api.dingtalk.com"
    client_id: str
    client_secret: str = field(repr=False)


async def open_connection(
    client: httpx.AsyncClient, credentials: Credentials, receive: Receive, timing: Timing, clock: Clock
) -> Connection:
    """Ask for a ticket and connect with it. A ticket serves one attempt.

    Raises:
        PlatformRefused: 400, 401 or 403: the credentials or the configuration are wrong.
        PlatformBusy: everything else; try again.
    """
    url = await _ask_for_ticket(client, credentials, timing)
    try:
        socket = await connect(
            url,
            open_timeout=timing.open_s,
            close_timeout=timing.close_s,
            ping_interval=None,  # ours has a deadline and a count of misses
            max_size=SOCKET_LIMIT_BYTES,
            compression=None,
        )
    except (OSError, ValueError, InvalidHandshake, InvalidURI, ConnectionClosed, EOFError) as exc:
        raise _unreachable(f"websocket: {type(exc).__name__}") from None  # its text may hold the ticket
    return Connection(socket, receive, timing, clock)


async def _ask_for_ticket(client: httpx.AsyncClient, credentials: Credentials, timing: Timing) -> str:
    request = {
        "clientId": credentials.client_id,
        "clientSecret": credentials.client_secret,
        "subscriptions": SUBSCRIPTIONS,
        "ua": "switchyard",
        "localIp": "",
    }
    try:
        async with (
            asyncio.timeout(timing.open_s),
            client.stream(
                "POST",
                credentials.openapi.rstrip("/") + OPEN_PATH,
                json=request,
                headers={"Accept": "application/json"},  # without it the gateway may answer in XML
                timeout=timing.open_s,
            ) as response,
        ):
            content = await _read(response)
    except (httpx.HTTPError, httpx.InvalidURL, TooLarge, TimeoutError) as exc:
        raise _unreachable(f"open: {type(exc).__name__}") from exc
    return _socket_url(response, content)


async def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        grow(content, chunk, ANSWER_LIMIT_BYTES)
    return bytes(content)


def _socket_url(response: httpx.Response, content: bytes) -> str:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    fields: dict[str, Any] = answer if isinstance(answer, dict) else {}
    if response.status_code != 200:
        _raise_refusal(response, fields)
    endpoint, ticket = fields.get("endpoint"), fields.get("ticket")
    if not isinstance(endpoint, str) or not isinstance(ticket, str) or not endpoint.startswith(("wss://", "ws://")):
        raise _unreachable("open: an answer without endpoint and ticket")
    return f"{endpoint}{'&' if '?' in endpoint else '?'}ticket={quote(ticket, safe='')}"


def _unreachable(reason: str) -> PlatformBusy:
    return PlatformBusy(reason, retry_after_s=0.0)  # the platform named no time: the owner's back-off decides


def _raise_refusal(response: httpx.Response, fields: dict[str, Any]) -> None:
    code = str(fields.get("code", ""))[:100]
    request_id = str(fields.get("requestid") or fields.get("requestId") or "")[:100]
    log.warning("the platform opens no connection", status=response.status_code, code=code, requestid=request_id)
    if response.status_code in (400, 401, 403) and "QpsLimit" not in code:
        raise PlatformRefused(code or f"http.{response.status_code}")
    after = response.headers.get("retry-after", "")
    raise PlatformBusy(f"open: {response.status_code}", retry_after_s=float(after) if after.isdigit() else 0.0)
