"""Downloads: bounded in bytes and seconds, and not to be led astray."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from app.channels.dingtalk.api import DOWNLOAD
from app.channels.dingtalk.download import fetch
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
    with httpx.Client(timeout=2) as client:
        return fetch(client, url, limit_bytes=int(limits.get("limit_bytes", 1000)), limit_s=limits.get("limit_s", 5))


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
            for _ in range(25):
                handler.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            return

    with a_site(trickle) as url, pytest.raises(BadPicture, match="too long"):
        fetch_from(url, limit_s=0.1)


def test_a_download_that_unpacks_itself_is_refused() -> None:
    def packed(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()

    with a_site(packed) as url, pytest.raises(BadPicture):
        fetch_from(url)
