"""What the servers say of themselves before the first request: a wrong key or model stops the start."""

import asyncio
import logging
from typing import Any, Final

from app.errors import BadSetting
from workers.engine.openai.client import Client
from workers.engine.openai.context import Context
from workers.engine.openai.failures import Failure
from workers.engine.openai.servers import Server, Servers

log = logging.getLogger(__name__)

LOOK_AROUND_S: Final = 30.0
_EXACT: Final = ("vllm", "sglang")  # whose list holds all that they can serve; others load a model when it is asked for
_SHOWN: Final = 5


async def look_around(client: Client, servers: Servers, context: Context) -> None:
    """Ask all servers for their models. Raises BadSetting; see `OpenAIEngine.look_around`."""
    found = await asyncio.gather(*(_models(client, server) for server in servers))
    known = [models for models in found if models]
    for entry in (entry for models in known for entry in models if entry.get("id") == client.model):
        context.learn(entry.get("max_model_len"))
    if not known or any(client.model == entry.get("id") for models in known for entry in models):
        return
    names = sorted({str(entry.get("id")) for models in known for entry in models})
    if all(entry.get("owned_by") in _EXACT for models in known for entry in models):
        raise BadSetting(f"SWITCHYARD_MODEL: the servers have no {client.model}; they have {', '.join(names[:_SHOWN])}")
    log.warning("the model is not in the servers' list", extra={"model": client.model, "listed": names[:_SHOWN]})


async def _models(client: Client, server: Server) -> list[dict[str, Any]]:
    """A server's list; empty if it has none or does not answer. Raises BadSetting."""
    try:
        return await client.models(server)
    except Failure as failure:
        told = str(failure)
        if failure.blame == "setting" and not told.startswith("SWITCHYARD_OPENAI_BASE_URLS"):
            raise BadSetting(f"{told}: {server.url}") from failure
        log.warning("model server does not tell its models", extra={"url": server.url, "reason": told})
        return []
