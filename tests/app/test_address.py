"""The record's address, of one server and of a cluster."""

import pytest

from app.address import Address, read_address


def test_one_servers_address_is_left_as_it_is() -> None:
    """redis-py reads it, with all that it may say."""
    assert read_address("redis://:word@host:1/3?db=4") == Address("redis://:word@host:1/3?db=4")


def test_a_cluster_is_asked_at_each_of_its_hosts() -> None:
    """One host that is down must not keep a process from starting."""
    address = read_address("redis+cluster://user:p%40ss@first:7000,[::1]:7001,third/0?socket_read_size=1024")

    assert address.is_cluster
    assert [address.url_of(place) for place in address.places] == [
        "redis://user:p%40ss@first:7000/0?socket_read_size=1024",
        "redis://user:p%40ss@[::1]:7001/0?socket_read_size=1024",
        "redis://user:p%40ss@third:6379/0?socket_read_size=1024",
    ]


def test_a_cluster_with_tls_is_asked_with_tls() -> None:
    assert read_address("rediss+cluster://host").url_of(("node", 1)) == "rediss://node:1/0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://host",
        "redis://",
        "redis+cluster://",
        "redis+cluster://:word@",
        "redis+cluster://a,,b",
        "redis+cluster://a:0",
        "redis+cluster://a:70000",
        "redis+cluster://a/1",
        "unix+cluster:///socket",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(text: str) -> None:
    """It may hold a password, and the error is logged."""
    with pytest.raises(ValueError, match=r"^[a-z ]+[0-9]?$"):
        read_address(text)
