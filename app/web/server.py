"""Health and readiness over HTTP: GET /healthz says that this process lives, GET /readyz that all of them work."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app import process
from app.control import NotRunning, ask
from app.settings import Settings

_FRESH_S = 0.5  # load balancers and tests poll; the supervisor is asked at most twice a second
_LAST_REQUESTS_S = 3


class Readiness:
    """What is missing on this machine, as its supervisor last said."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._asked_at = float("-inf")
        self._missing: list[str] = []
        self._asking = asyncio.Lock()

    async def missing(self) -> list[str]:
        """One line for each process that is not ready; empty when all can do their work."""
        async with self._asking:
            if time.monotonic() - self._asked_at > _FRESH_S:
                self._missing = await asyncio.to_thread(self._ask)
                self._asked_at = time.monotonic()
            return self._missing

    def _ask(self) -> list[str]:
        try:
            answer = ask(self._data_dir, {"do": "ps"})
        except NotRunning:
            return ["supervisor: does not answer"]
        return missing_of(answer)


def missing_of(answer: dict[str, Any]) -> list[str]:
    """Read a supervisor's answer to `ps`. A process that drains is not missing: its place is closed."""
    if not answer["started"]:
        return ["supervisor: is still starting", *_not_ready(answer["processes"])]
    return _not_ready(answer["processes"])


def application(data_dir: Path) -> Starlette:
    """The two pages."""
    readiness = Readiness(data_dir)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        missing = await readiness.missing()
        body = {"ready": False, "missing": missing} if missing else {"ready": True}
        return JSONResponse(body, status_code=503 if missing else 200)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz)])


def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    config = uvicorn.Config(
        application(settings.data_dir),
        host=settings.bind,
        port=settings.web_port,
        log_config=None,  # our own, and no line for each request
        access_log=False,
        timeout_graceful_shutdown=_LAST_REQUESTS_S,
    )
    _Server(config).run()


class _Server(uvicorn.Server):
    """Says that it is ready when its port is open."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        process.ready()


def _not_ready(processes: list[dict[str, Any]]) -> list[str]:
    return [f"{one['role']}: {one['state']}" for one in processes if one["state"] not in ("ready", "draining")]
