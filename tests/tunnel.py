"""A TCP tunnel that does to a connection what networks do: swallow, hold back, reset, tear in the middle of a frame."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

Way = Literal["up", "down"]  # towards the server, towards the client

_CHUNK_BYTES = 1 << 16
_PATIENCE_S = 10.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


class _Line:
    """One connection through the tunnel."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.swallowed = self.cut = False
        self.tear: Way | None = None
        self._pumps_left, self._lock = 2, threading.Lock()

    def reset(self) -> None:
        """Both ends get a reset; what is under way is lost."""
        self.cut = True
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RD)  # wakes the pump, which closes it

    def leave(self) -> None:
        """One pump has ended; the last one closes both ends."""
        with self._lock:
            self._pumps_left -= 1
            last = not self._pumps_left
        if last:
            self.client.close()
            self.server.close()


class Tunnel:
    """Passes bytes on to the server at `target`, both ways, until it is told otherwise. Threads and real sockets."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = parts._replace(netloc=f"127.0.0.1:{self._door.getsockname()[1]}").geturl()
        self._flows: dict[Way, threading.Event] = {"up": threading.Event(), "down": threading.Event()}
        self._lines: list[_Line] = []
        self._closed = False
        self.go_on()
        threading.Thread(target=self._serve, name="tunnel", daemon=True).start()

    @property
    def connections(self) -> int:
        """How many were made since the start."""
        return len(self._lines)

    def hold(self, *ways: Way) -> None:
        """Bytes wait, in order, until `go_on`: a network that is slow, or stands still."""
        for way in ways or tuple(self._flows):
            self._flows[way].clear()

    def go_on(self) -> None:
        for flow in self._flows.values():
            flow.set()

    def swallow(self) -> None:
        """The connections of now become half-open: nothing passes any more, no end, no reset. New ones are well."""
        for line in self._lines:
            line.swallowed = True

    def reset(self) -> None:
        """Reset the connections of now."""
        for line in self._lines:
            line.reset()

    def tear(self, way: Way = "down") -> None:
        """Of the next bytes of each connection of now pass only the first half; then it is reset."""
        for line in self._lines:
            line.tear = way

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.reset()
        self.go_on()

    def _serve(self) -> None:
        while not self._closed:
            try:
                client, _ = self._door.accept()
                server = socket.create_connection(self._target, _PATIENCE_S)
            except OSError:
                continue  # closed, or there is no server: that client hears of it when its end is collected
            for end in (client, server):
                end.settimeout(_PATIENCE_S)
            line = _Line(client, server)
            self._lines.append(line)
            for source, sink, way in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pump, args=(line, source, sink, way), daemon=True).start()

    def _pump(self, line: _Line, source: socket.socket, sink: socket.socket, way: Way) -> None:
        try:
            while (data := _received(source)) and not line.cut:
                self._flows[way].wait()
                if line.swallowed:
                    continue
                if line.tear == way:
                    sink.sendall(data[: len(data) // 2])
                    line.reset()
                    break
                sink.sendall(data)
            if not line.swallowed and not line.cut:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            line.reset()  # one end is gone: so is the other
        finally:
            line.leave()


def _received(source: socket.socket) -> bytes:
    """Some bytes; none at the end."""
    while True:
        with contextlib.suppress(TimeoutError):
            return source.recv(_CHUNK_BYTES)


@contextlib.contextmanager
def tunnel(target: str) -> Iterator[Tunnel]:
    """A tunnel before the server at `target`."""
    made = Tunnel(target)
    try:
        yield made
    finally:
        made.close()
