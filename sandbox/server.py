"""One HTTP and WebSocket server on 127.0.0.1."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sandbox.control import Control
from sandbox.platform import Platform
from sandbox.rules import Rules
from sandbox.sockets import Socket
from sandbox.tokens import Credentials
from sandbox.world import World

HOST = "127.0.0.1"
CLIENT_CLOSED_REQUEST = 499  # nobody reads it


class AnnouncingServer(uvicorn.Server):
    """A uvicorn server that says when it listens."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then announce it."""
        await super().startup(sockets)
        self._announce()


def application(world: World) -> Starlette:
    """The ASGI application of a world. Whoever leaves in the middle of a request did not make it."""
    routes = [*Platform(world).routes(), *Control(world).routes()]
    return Starlette(routes=routes, exception_handlers={ClientDisconnect: _gone})


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def listen(port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises OSError if the port is taken."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((HOST, port))
    return bound


async def serve(
    bound: socket.socket,
    credentials: Credentials,
    rules: Rules,
    *,
    announce: Callable[[str], None],
    stop_with_stdin: bool = False,
) -> None:
    """Serve until a signal, or until standard input ends; `announce` gets the address once it is reachable."""
    url = f"http://{HOST}:{bound.getsockname()[1]}"
    config = uvicorn.Config(
        application(World(credentials, rules, url)),
        ws=Socket,
        ws_ping_interval=None,  # pings of the WebSocket are the client's duty
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = AnnouncingServer(config, lambda: announce(url))
    if stop_with_stdin:
        _watch_stdin(server)
    await server.serve(sockets=[bound])


def _watch_stdin(server: uvicorn.Server) -> None:
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            server.should_exit = True

    loop.add_reader(sys.stdin.fileno(), readable)
