"""Read what lies behind an address that the platform named: bounded in bytes, seconds and places to look."""

import time

import httpx

from app.errors import BadPicture, PlatformBusy

REDIRECTS = 3


def fetch(client: httpx.Client, url: str, *, limit_bytes: int, limit_s: float) -> bytes:
    """The bytes at `url`. No token goes there.

    Raises:
        BadPicture: not there, too large, too slow, encoded, or not http(s) all the way.
        PlatformBusy: not now.
    """
    ends_at = time.monotonic() + limit_s
    try:
        target = httpx.URL(url)
        for _ in range(REDIRECTS + 1):
            found = _look(client, target, limit_bytes=limit_bytes, ends_at=ends_at)
            if isinstance(found, bytes):
                return found
            if target.scheme == "https" and found.scheme != "https":
                raise BadPicture("redirected away from https")
            target = found
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.StreamError) as exc:
        raise BadPicture(f"download: {type(exc).__name__}") from None  # the address is a secret
    except httpx.TransportError as exc:
        raise PlatformBusy(f"download: {type(exc).__name__}") from None
    except httpx.HTTPError as exc:
        raise BadPicture(f"download: {type(exc).__name__}") from None
    raise BadPicture("too many redirects")


def _look(client: httpx.Client, target: httpx.URL, *, limit_bytes: int, ends_at: float) -> bytes | httpx.URL:
    """The content at one address, or the next address."""
    if target.scheme not in ("http", "https"):
        raise BadPicture("an address that is neither http nor https")
    with client.stream("GET", target, headers={"Accept-Encoding": "identity"}) as response:
        if response.next_request is not None:
            return response.next_request.url
        if response.status_code == 429 or response.status_code >= 500:
            raise PlatformBusy(f"download: http.{response.status_code}")
        if response.status_code != 200 or response.headers.get("content-encoding", "identity") != "identity":
            raise BadPicture(f"download: http.{response.status_code}")
        return _read(response, limit_bytes=limit_bytes, ends_at=ends_at)


def _read(response: httpx.Response, *, limit_bytes: int, ends_at: float) -> bytes:
    announced = response.headers.get("content-length", "")
    content = bytearray()
    if announced.isdigit() and int(announced) > limit_bytes:
        raise BadPicture(f"larger than {limit_bytes} bytes")
    for chunk in response.iter_raw(65_536):
        content += chunk
        if len(content) > limit_bytes:
            raise BadPicture(f"larger than {limit_bytes} bytes")
        if time.monotonic() > ends_at:
            raise BadPicture("the download took too long")
    return bytes(content)
