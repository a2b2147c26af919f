"""Addresses. The record's is one server's, or a cluster's as `redis+cluster://:password@host:port,host:port`.

That it is a cluster stands in the scheme and is not found out by asking: an address is checked before anything starts,
also while no server answers, and a cluster needs more than one host in it. A wrong scheme is told by `check_record`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

PLAIN_SCHEMES = ("redis", "rediss", "unix")
_CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_PORT = 6379

Place = tuple[str, int]  # host and port


@dataclass(frozen=True, slots=True)
class Address:
    """`url` is one server's, in the form that redis-py reads. A cluster's has no host in it but `{place}`."""

    url: str
    places: tuple[Place, ...] = ()  # of a cluster: whom to ask first

    @property
    def is_cluster(self) -> bool:
        return bool(self.places)

    def url_of(self, place: Place) -> str:
        """The URL of one server of a cluster."""
        host, port = place
        return self.url.replace("{place}", f"[{host}]:{port}" if ":" in host else f"{host}:{port}", 1)


def read_address(text: str) -> Address:
    """Read an address of the record.

    Raises:
        ValueError: it has no such form; the text holds no part of the address, which has a password.
    """
    scheme, _, rest = text.partition("://")
    if scheme not in _CLUSTER_SCHEMES:
        if not is_address(text, PLAIN_SCHEMES):
            raise ValueError("no such address")
        return Address(text)
    hosts, tail = _split(rest)
    user, at, hosts = hosts.rpartition("@")
    if tail.partition("?")[0] not in ("", "/", "/0"):
        raise ValueError("a cluster has no database but 0")
    places = tuple(_place(host) for host in hosts.split(","))
    query = tail[tail.index("?") :] if "?" in tail else ""
    return Address(f"{_CLUSTER_SCHEMES[scheme]}://{user}{at}{{place}}/0{query}", places)


def _split(rest: str) -> tuple[str, str]:
    """What stands before the path and the query, and these."""
    end = min((rest.index(mark) for mark in "/?" if mark in rest), default=len(rest))
    return rest[:end], rest[end:]


def _place(host: str) -> Place:
    try:
        url = urlsplit(f"redis://{host}")
        name, port = url.hostname, url.port
    except ValueError:
        raise ValueError("a host or port is not right") from None
    if not name or port == 0 or url.path:
        raise ValueError("a host is missing")
    return name, port or _PORT


def is_address(text: str, schemes: Collection[str]) -> bool:
    """Whether it has one of the schemes, a host (a path for unix) and, if any, a port from 1 to 65535."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    return url.scheme in schemes and bool(url.path if url.scheme == "unix" else url.hostname) and port != 0


def has_more_than_a_path(url: str) -> bool:
    """A user, a query or a fragment: none of it belongs to a base URL, and the first would stand in logs."""
    parts = urlsplit(url)
    return bool(parts.username or parts.password or parts.query or parts.fragment)
