"""A peer that speaks HTTP badly: it sends what it is told, as slowly as it is told."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# It answers once a connection, and says so: else the next call might go into a socket that is being closed.
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def sending(at_once: bytes, slowly: bytes = b"", *, every_s: float = 0.02, times: int = 1000) -> Iterator[str]:
    """Its address. Each connection gets `at_once`, then `slowly` again and again until it or the test ends."""
    over = threading.Event()

    def answer(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            read_request(peer)
            peer.sendall(at_once)
            for _ in range(times if slowly else 0):
                if over.wait(every_s):
                    return
                peer.sendall(slowly)

    def serve() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                peer, _ = listening.accept()
                peer.settimeout(5)
                threads.append(threading.Thread(target=answer, args=(peer,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        threads = [threading.Thread(target=serve)]
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()
            for thread in threads:
                thread.join(10)


def read_request(peer: socket.socket) -> None:
    """Take the whole request: a socket that is closed with something unread resets the connection."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += received(peer)
    head, _, body = request.partition(b"\r\n\r\n")
    announced = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    while announced and len(body) < int(announced.group(1)):
        body += received(peer)


def received(peer: socket.socket) -> bytes:
    """Some bytes. Raises ConnectionError at the end."""
    if data := peer.recv(65_536):
        return data
    raise ConnectionError("the caller left")
