"""Downloads: bounded in bytes and seconds, and not to be led astray."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.channels.dingtalk.api import DOWNLOAD
from app.channels.dingtalk.download import fetch, is_public
from app.channels.dingtalk.exchange import BoundedClient
from app.channels.dingtalk.outlet import DingTalkOutlet
from app.errors import BadPicture, PlatformBusy
from app.message import Attachment
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.app.channels.dingtalk.peer import one_callback


def a_file(sandbox: Sandbox, platform: SandboxClient, content: bytes) -> Attachment:
    data = one_callback(sandbox, lambda: platform.picture(content))
    return Attachment(kind="picture", code=data["content"]["downloadCode"])


def test_a_picture_is_downloaded(outlet: DingTalkOutlet, sandbox: Sandbox, platform: SandboxClient) -> None:
    assert outlet.download(a_file(sandbox, platform, b"bytes"), 1000) == b"bytes"


def test_a_picture_that_is_too_large_or_unknown_is_a_bad_one(
    outlet: DingTalkOutlet, sandbox: Sandbox, platform: SandboxClient
) -> None:
    large = a_file(sandbox, platform, b"x" * 5000)

    with pytest.raises(BadPicture):
        outlet.download(large, 4999)
    with pytest.raises(BadPicture):
        outlet.download(Attachment(kind="picture", code="unknown"), 1000)


@pytest.mark.parametrize("fault", ["qps", "timeout_before", "busy"])
def test_a_download_that_fails_for_now_is_tried_again(
    outlet: DingTalkOutlet, platform: SandboxClient, fault: str
) -> None:
    platform.answer(DOWNLOAD, fault)

    with pytest.raises(PlatformBusy):
        outlet.download(Attachment(kind="picture", code="x"), 1000)


@contextmanager
def a_site(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A web server that answers every GET as it is told."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetch_from(url: str, **limits: float) -> bytes:
    with BoundedClient(timeout=2) as client:
        limit_bytes, limit_s = int(limits.get("limit_bytes", 1000)), limits.get("limit_s", 5)
        return fetch(client, url, limit_bytes=limit_bytes, limit_s=limit_s, inward=True)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/again"])
def test_a_download_is_not_led_astray(target: str) -> None:
    def redirect(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    with a_site(redirect) as url, pytest.raises(BadPicture):
        fetch_from(url)


def test_a_download_without_an_announced_size_is_cut_off() -> None:
    def flood(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(1000):
                handler.wfile.write(b"x" * 1000)
        except OSError:
            return

    with a_site(flood) as url, pytest.raises(BadPicture, match="larger"):
        fetch_from(url)


def test_a_download_that_trickles_is_cut_off() -> None:
    def trickle(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(500):  # ten seconds
                handler.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            return

    with a_site(trickle) as url:
        began = time.monotonic()
        with pytest.raises(BadPicture, match="too long"):
            fetch_from(url, limit_s=0.1)
        assert time.monotonic() - began < 8


def test_a_download_that_unpacks_itself_is_refused() -> None:
    def packed(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()

    with a_site(packed) as url, pytest.raises(BadPicture):
        fetch_from(url)


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("no-such-name.invalid", True),  # left to the connection: a proxy may know it
        ("127.0.0.1", False),
        ("localhost", False),
        ("2130706433", False),  # 127.0.0.1 in another dress
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("fe80::1", False),
        ("fd00::1", False),
    ],
)
def test_what_is_public_and_what_is_our_own(host: str, public: bool) -> None:
    assert is_public(host) is public


def test_the_real_platform_cannot_make_us_read_our_own_network() -> None:
    """Whoever can name a download address must not learn what this machine's neighbours answer."""
    asked = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(200)
        handler.end_headers()

    with a_site(answer) as url, BoundedClient(timeout=2) as client, pytest.raises(BadPicture, match="private"):
        fetch(client, url, limit_bytes=10, limit_s=5)

    assert asked == []
