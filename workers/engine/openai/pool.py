"""Places of the pool of connections that a cancel left taken for ever."""

from typing import Any

import httpx


async def sweep(http: httpx.AsyncClient) -> None:
    """Take out and close the connections that no request uses and that none can ever use.

    httpcore 1.0 forgets a connection whose request is cancelled between its connecting and its sending, or while it
    is being closed: it stays in the pool, neither idle nor closed. There is no public way to it; a test watches this.
    """
    pool: Any = http._transport._pool  # type: ignore[attr-defined]
    used = {id(request.connection) for request in pool._requests}
    lost = [one for one in pool._connections if id(one) not in used and not _useful(one)]
    if not lost:
        return
    pool._connections = [one for one in pool._connections if one not in lost]
    await pool._close_connections([*lost, *pool._assign_requests_to_connections()])  # those who wait get the places


def _useful(connection: Any) -> bool:
    return bool(connection.is_idle() or connection.is_closed() or connection.is_available())
