"""The listener's process as it is, but it wakes nobody: what storing and acknowledging alone cost.

`python -m benchmarks.unwoken`.
"""

import asyncio
import signal

import uvloop

from app.installation import check_record, limits_of
from app.listener import run
from app.log import setup_logging
from app.redis import AsyncStore, Store
from app.routing import Dispatcher
from app.settings import Settings, load_settings
from app.wording import Wording


def wake_nobody(_queue: str, _conversation: str, /) -> None:
    """What follows is in the record, and that is all."""


async def listen(settings: Settings) -> None:
    """Listen until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    store = AsyncStore(settings.redis_url.get_secret_value())
    dispatcher = Dispatcher(store, limits_of(settings), wake=wake_nobody, say=Wording(settings.locale).say)
    try:
        await run(settings, dispatcher.dispatch, lambda: None, stop)
    finally:
        await store.close()


def main() -> None:
    """Read the settings, check the record, listen."""
    settings = load_settings()
    setup_logging("listener", level=settings.log_level)
    check_record(Store(settings.redis_url.get_secret_value()))
    uvloop.run(listen(settings))


if __name__ == "__main__":
    main()
