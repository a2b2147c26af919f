"""Read what lies behind an address that the platform named: bounded in bytes, seconds and places to look."""

import ipaddress
import socket
import time

import httpx

from app.channels.dingtalk.exchange import BoundedClient, Unread, read
from app.errors import BadPicture, PlatformBusy

REDIRECTS = 3


def fetch(client: BoundedClient, url: str, *, limit_bytes: int, limit_s: float, inward: bool = False) -> bytes:
    """The bytes at `url`. No token goes there.

    Args:
        inward: hosts of this machine and of private networks may be asked too: the platform itself is one of them.

    Raises:
        BadPicture: not there, too large, too slow, encoded, not http(s) all the way, or an address of our own network.
        PlatformBusy: not now.
    """
    ends_at = time.monotonic() + limit_s
    try:
        target = httpx.URL(url)
        for _ in range(REDIRECTS + 1):
            _check(target, inward=inward)
            found = _look(client, target, limit_bytes=limit_bytes, ends_at=ends_at)
            if isinstance(found, bytes):
                return found
            if target.scheme == "https" and found.scheme != "https":
                raise BadPicture("redirected away from https")
            target = found
    except Unread as exc:
        raise BadPicture(f"download: {exc}") from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.StreamError) as exc:
        raise BadPicture(f"download: {type(exc).__name__}") from None  # the address is a secret
    except httpx.TransportError as exc:
        raise PlatformBusy(f"download: {type(exc).__name__}") from None
    except httpx.HTTPError as exc:
        raise BadPicture(f"download: {type(exc).__name__}") from None
    raise BadPicture("too many redirects")


def _check(target: httpx.URL, *, inward: bool) -> None:
    if target.scheme not in ("http", "https"):
        raise BadPicture("an address that is neither http nor https")
    if not inward and not is_public(target.host):
        raise BadPicture("an address of this machine or of a private network")


def is_public(host: str) -> bool:
    """Whether a host is no address of this machine, of its link or of a private network, and resolves to none.

    A name that cannot be resolved here is left to the connection: a proxy may know it.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    addresses = (ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found)
    return all(address.is_global and not address.is_multicast for address in addresses)


def _look(client: BoundedClient, target: httpx.URL, *, limit_bytes: int, ends_at: float) -> bytes | httpx.URL:
    """The content at one address, or the next address."""
    with client.opened("GET", target, ends_at=ends_at, headers={"Accept-Encoding": "identity"}) as response:
        if response.next_request is not None:
            return response.next_request.url
        if response.status_code == 429 or response.status_code >= 500:
            raise PlatformBusy(f"download: http.{response.status_code}")
        if response.status_code != 200 or response.headers.get("content-encoding", "identity") != "identity":
            raise BadPicture(f"download: http.{response.status_code}")
        return read(response, limit_bytes=limit_bytes, ends_at=ends_at)
