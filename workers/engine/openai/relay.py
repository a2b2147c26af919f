"""One request, whatever servers it takes: another one as long as no token came, and never after that."""

import logging
import time
from collections.abc import Sequence
from typing import Final

from app.errors import EngineStopped, EngineUnavailable, RequestRejected, SwitchyardError
from workers.engine.interface import Finish
from workers.engine.openai.answer import Answer
from workers.engine.openai.client import Client
from workers.engine.openai.context import Context
from workers.engine.openai.failures import Failure, TooLong, Unknown
from workers.engine.openai.servers import Server, Servers

log = logging.getLogger(__name__)

_TRIES: Final = (2, 4)  # at least, at most: as many as there are servers
_CHANGES: Final = 4  # a server may ask for two other parameters and a shorter prompt
_LEAST_RETRY_S: Final = 1.0


class Relay:
    """Hands requests to servers, and remembers how each server took them."""

    def __init__(self, client: Client, servers: Servers, context: Context) -> None:
        self._client, self._servers, self._context = client, servers, context
        least, most = _TRIES
        self._tries = min(max(least, len(servers)), most)

    async def answer(self, answer: Answer) -> Finish:
        """Have it answered; says how it ended.

        Raises:
            RequestRejected: no server will ever run it.
            EngineStopped: a server broke off after the first token, or failed before it, perhaps because of it.
            EngineUnavailable: no server takes it now.
        """
        tried: list[Server] = []
        failures: list[Failure] = []
        while len(tried) < self._tries:
            server = self._servers.pick(time.monotonic(), tried)
            if server is None or (server in tried and failures[-1].blame == "slow"):
                break
            tried.append(server)
            suspected = server.suspect
            try:
                return await self._ask(server, answer)
            except Failure as failure:
                self._note(server, failure)
                if suspected and failure.blame == "failed":  # as it did with others: it proves nothing about this one
                    failure = Failure("down", str(failure))
                failures.append(failure)
        raise self._verdict(failures)

    async def _ask(self, server: Server, answer: Answer) -> Finish:
        """One server, asked again as it wants it: without a parameter, or once with a shorter prompt."""
        answer.on_begin = lambda: self._trust(server)
        with server.serving():
            for _ in range(_CHANGES):
                try:
                    return await self._client.chat(server, answer)
                except Unknown as unknown:
                    if unknown.parameter in server.left_out:
                        raise RequestRejected(f"the model server does not know {unknown.parameter}") from None
                    server.left_out.add(unknown.parameter)
                except TooLong as found:
                    self._context.shorten(answer, found)
                except EngineStopped as stopped:
                    self._note(server, Failure("failed", str(stopped)))
                    raise
        raise RequestRejected("the model server refuses every form of it")

    def _note(self, server: Server, failure: Failure) -> None:
        opened = server.failed(failure, time.monotonic())
        told = {"url": server.url, "reason": str(failure)}
        if opened:
            log.error("model server rests", extra=told)
        elif failure.blame != "busy":
            log.warning("model server failed", extra=told)

    def _trust(self, server: Server) -> None:
        if server.succeeded():
            log.info("model server is back", extra={"url": server.url})

    def _verdict(self, failures: Sequence[Failure]) -> SwitchyardError:
        """What all the failures together mean for the request."""
        blames = {failure.blame: str(failure) for failure in failures}
        if set(blames) == {"absent"}:
            return RequestRejected(blames["absent"])
        if "failed" in blames:
            return EngineStopped(f"the model server failed: {blames['failed']}")
        reason = blames.get("setting") or (str(failures[-1]) if failures else "each one rests after failures")
        again_s = max(_LEAST_RETRY_S, self._servers.ready_in_s(time.monotonic()))
        return EngineUnavailable(f"no model server takes it now: {reason}", retry_after_s=again_s)
