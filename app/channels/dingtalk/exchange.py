"""One request and its answer, bounded in all: in seconds from the first byte sent to the last one read, and in bytes.

httpx bounds each single read, so a peer that sends a byte now and then could hold a thread for hours.
"""

import math
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpcore
import httpx

ANSWER_LIMIT_BYTES: Final = 1_000_000

Until = Callable[[], float]


def never() -> float:
    """An end that does not come."""
    return math.inf


class Unread(Exception):
    """An answer was not read to its end."""


class TooLarge(Unread):
    """An answer has more bytes than its reader is willing to take."""


class TooSlow(Unread):
    """An answer did not end within its time."""


class Unsent(httpx.ConnectTimeout):
    """The time was over before the first byte of a request left: nothing was done."""


class BoundedClient(httpx.Client):
    """A client whose exchanges end in time, whatever the peer does. It belongs to one thread."""

    def __init__(self, *, timeout: httpx.Timeout | float, headers: dict[str, str] | None = None) -> None:
        super().__init__(timeout=timeout, headers=headers)
        self._ends = _End()
        # httpx has no public place for a network backend that would keep the proxies of the environment.
        for transport in (self._transport, *self._mounts.values()):
            if isinstance(transport, httpx.HTTPTransport):
                transport._pool._network_backend = _Backend(transport._pool._network_backend, self._ends)

    @contextmanager
    def opened(
        self, method: str, url: httpx.URL | str, *, ends_at: float, until: Until = never, **options: Any
    ) -> Iterator[httpx.Response]:
        """An answer whose head is read.

        It ends at `ends_at`, by time.monotonic(), or at `until()` if that is sooner: a time that may move on meanwhile.

        Raises:
            TooSlow: that time is over.
            Unsent: it was over before anything was sent.
            What httpx raises.
        """
        self._ends.begin(ends_at, until)
        try:
            with self.stream(method, url, **options) as response:
                yield response
        except httpx.TimeoutException:
            if not self._ends.sent:
                raise Unsent("the time was over before the request left") from None
            if not self._ends.over():
                raise
            raise TooSlow("the answer took too long") from None
        finally:
            self._ends.begin(math.inf, never)

    def exchange(
        self, method: str, url: httpx.URL | str, *, within_s: float, until: Until = never, **options: Any
    ) -> httpx.Response:
        """Send a request and read its answer. Raises TooLarge, or as `opened`."""
        ends_at = time.monotonic() + within_s
        with self.opened(method, url, ends_at=ends_at, until=until, **options) as response:
            content = read(response, limit_bytes=ANSWER_LIMIT_BYTES, ends_at=ends_at)
        headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-encoding"]
        return httpx.Response(response.status_code, headers=headers, content=content, request=response.request)


def read(response: httpx.Response, *, limit_bytes: int, ends_at: float) -> bytes:
    """The content of an answer, unpacked, as it comes. Raises TooLarge, TooSlow, or what httpx raises."""
    announced = response.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise TooLarge(f"larger than {limit_bytes} bytes")
    content = bytearray()
    for chunk in response.iter_bytes():
        grow(content, chunk, limit_bytes)
        if time.monotonic() > ends_at:
            raise TooSlow("the answer took too long")
    return bytes(content)


def grow(content: bytearray, chunk: bytes, limit_bytes: int) -> None:
    """Add a chunk to what was read. Raises TooLarge."""
    content += chunk
    if len(content) > limit_bytes:
        raise TooLarge(f"larger than {limit_bytes} bytes")


class _End:
    """When the exchange that a client is in must be over, by time.monotonic(), and whether it has begun."""

    def __init__(self) -> None:
        self.begin(math.inf, never)

    def begin(self, at: float, until: Until) -> None:
        self._at, self._until, self.sent = at, until, False

    def over(self) -> bool:
        return min(self._at, self._until()) <= time.monotonic()

    def left_s(self, timeout: float | None, late: Callable[[], Exception]) -> float | None:
        """The time for one step: its own timeout, or what is left of the whole if that is less."""
        left_s = min(self._at, self._until()) - time.monotonic()
        if left_s <= 0:
            raise late()
        least_s = left_s if timeout is None else min(timeout, left_s)
        return least_s if math.isfinite(least_s) else None


class _Backend(httpcore.NetworkBackend):
    """Gives each step on the network only the time that is left."""

    def __init__(self, inner: httpcore.NetworkBackend, ends: _End) -> None:
        self._inner = inner
        self._ends = ends

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left_s = self._ends.left_s(timeout, httpcore.ConnectTimeout)
        stream = self._inner.connect_tcp(host, port, left_s, local_address, socket_options)
        return _Stream(stream, self._ends)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, ends: _End) -> None:
        self._inner = inner
        self._ends = ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read on while the end moves on: what is read late does nothing, what is sent late might."""
        step_ends = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left_s = self._ends.left_s(max(0.0, step_ends - time.monotonic()), httpcore.ReadTimeout)
            try:
                return self._inner.read(max_bytes, left_s)
            except httpcore.ReadTimeout:
                if time.monotonic() >= step_ends:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left_s = self._ends.left_s(timeout, httpcore.WriteTimeout)
        self._ends.sent = True
        self._inner.write(buffer, left_s)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left_s = self._ends.left_s(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left_s), self._ends)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
