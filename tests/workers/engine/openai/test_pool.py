"""A cancel at any moment of an exchange leaves no place of the pool taken."""

import asyncio

import pytest

from tests.workers.engine.asking import ask
from tests.workers.engine.openai.model_server import ModelServer
from workers.engine.interface import Handle
from workers.engine.meter import Meter
from workers.engine.openai.answer import Answer
from workers.engine.openai.client import Client, Limits
from workers.engine.openai.servers import Server, Servers

TURNS = 61


@pytest.mark.parametrize("cancels", [1, 2])
def test_a_cancel_after_any_turn_of_the_loop_gives_the_place_back(server: ModelServer, cancels: int) -> None:
    (target,) = Servers([server.url("stall")])

    async def left() -> dict[int, list[object]]:
        client = Client(model="m", slots=4, api_key="", ca_file=None, limits=Limits())
        found = {}
        for turns in range(TURNS):
            found[turns] = await cancelled_after(turns, cancels, client, target)
        await client.close()
        return found

    assert {turns: places for turns, places in asyncio.run(left()).items() if places} == {}


async def cancelled_after(turns: int, cancels: int, client: Client, server: Server) -> list[object]:
    """The connections that are in the pool after an exchange was cancelled; the list is httpcore's own, and private."""
    task = asyncio.create_task(client.chat(server, Answer(ask("hello"), Handle(), Meter().begin())))
    for _ in range(turns):
        await asyncio.sleep(0)
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(task, return_exceptions=True)
    pool = client._http._transport._pool  # type: ignore[attr-defined]
    return list(pool.connections)
