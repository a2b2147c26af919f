"""The server's end of one WebSocket, with the few things that an ASGI application cannot do by itself."""

import socket
import struct
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.http11 import Request

SCOPE_KEY = "sandbox.socket"
TEAR_S = 0.05  # until the first half of a torn frame is on its way
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: the kernel sends RST


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, able to push at once, to break the wire, and to play dead."""

    deaf = False
    """Deaf: bytes still arrive and nothing is made of them, so no pong, no ack and no close goes through."""

    def handle_connect(self, event: Request) -> None:
        """Hand this object to the application together with the request."""
        super().handle_connect(event)
        if not self.close_sent:
            extensions: dict[str, Any] = self.scope["extensions"] or {}
            extensions[SCOPE_KEY] = self

    async def send(self, message: ASGISendEvent) -> None:
        """Send; a request refused before the upgrade counts as done, or uvicorn logs an error for it."""
        await super().send(message)
        if self.close_sent and self.initial_response is not None:
            self.handshake_complete = True

    def data_received(self, data: bytes) -> None:
        """Read, unless deaf."""
        if not self.deaf:
            super().data_received(data)

    def push(self, content: str | bytes) -> bool:
        """Write one frame now, in the order of the calls; False if the socket is closing."""
        if data := self._framed(content):
            self.transport.write(data)
        return bool(data)

    def tear(self, content: str | bytes) -> None:
        """Write the first half of one frame, then reset the TCP connection."""
        if data := self._framed(content):
            self.transport.write(data[: len(data) // 2])
            self.loop.call_later(TEAR_S, lambda: self.drop(reset=True))

    def drop(self, *, reset: bool = False) -> None:
        """Break the TCP connection without a close frame; `reset` it, so that what is on its way is lost too."""
        if reset and not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _framed(self, content: str | bytes) -> bytes:
        """The bytes of one frame; none if the socket is closing."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return b""
        try:
            if isinstance(content, str):
                self.conn.send_text(content.encode())
            else:
                self.conn.send_binary(content)
        except InvalidState:
            return b""
        return b"".join(self.conn.data_to_send())

    def end(self) -> None:
        """Say goodbye with a close frame; the TCP connection ends with the answer, or at once if none can come."""
        if self.deaf or self.close_sent or self.disconnected or self.transport.is_closing():
            self.transport.close()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1000, "reason": ""})
        self.conn.send_close(1000)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:  # otherwise the client's own close frame is never read
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
