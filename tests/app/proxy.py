"""A TCP proxy before a Valkey, which can lose the answer of a script and reset the connection."""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

_CHUNK_BYTES = 1 << 20
_PATIENCE_S = 10.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


class Proxy:
    """Passes bytes on, until it is told to cut. Real sockets and one thread for each connection."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._target = (str(target.hostname), int(target.port or 6379))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._door.getsockname()[1]}/0"
        self.cuts = 0  # answers that were lost
        self._armed = False
        self._meanwhile: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._serve, name="proxy", daemon=True).start()

    def cut_next(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Lose the answer of the next script that the server runs, and reset that connection.

        `meanwhile` is done between the two, before the caller can know of it.
        """
        with self._lock:
            self._armed, self._meanwhile = True, meanwhile

    def disarm(self) -> bool:
        """Cut nothing more; whether a cut was still to come."""
        with self._lock:
            armed, self._armed = self._armed, False
            return armed

    def close(self) -> None:
        """Take no more connections and reset the open ones."""
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(self._target, _PATIENCE_S)
            except OSError:
                _reset(client)
                continue
            threading.Thread(target=self._pass_on, args=(client, server), name="proxied", daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            self._open |= {client, server}
        try:
            for asked, answer in _exchanges(client, server):
                if asked and self._cuts(answer):
                    self._meanwhile()
                    break
                client.sendall(answer)
        except OSError:
            pass  # one end is gone: so is the other
        finally:
            with self._lock:
                self._open -= {client, server}
            _reset(client)
            server.close()

    def _cuts(self, answer: bytes) -> bool:
        """A script that the server did not know did not run: that answer is passed on and the next one is cut."""
        with self._lock:
            cuts = self._armed and not answer.startswith(b"-NOSCRIPT")
            if cuts:
                self._armed = False
                self.cuts += 1
            return cuts


def _exchanges(client: socket.socket, server: socket.socket) -> Iterator[tuple[bool, bytes]]:
    """(whether a script was asked for, what the server answered), until one end closes."""
    asked = False
    while True:
        ready, _, _ = select.select([client, server], [], [])
        if client in ready:
            request = client.recv(_CHUNK_BYTES)
            if not request:
                return
            asked = asked or b"EVAL" in request
            server.sendall(request)
        if server in ready:
            answer = server.recv(_CHUNK_BYTES)
            if not answer:
                return
            yield asked, answer
            asked = asked and answer.startswith(b"-NOSCRIPT")


def _reset(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    client.close()


@contextlib.contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy before the server at `url`."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
