"""The listener's process: the settings, the record, the wake-ups and the loop, wired together."""

import asyncio
import os
import signal

import uvloop

from app.installation import check_record, limits_of
from app.listener import run
from app.process import end_with_parent, ready
from app.queue import Waker, create_celery
from app.redis import AsyncStore, Store
from app.routing import Dispatcher
from app.settings import Settings
from app.wording import Wording


def main(settings: Settings) -> None:
    """Listen until SIGTERM. Raises BadSetting if the record is not ours to read."""
    end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    check_record(Store(settings.redis_url.get_secret_value()))
    uvloop.run(_listen(settings))


async def _listen(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    waker = Waker(create_celery("switchyard.listener", settings.broker_url.get_secret_value()))
    store = AsyncStore(settings.redis_url.get_secret_value())
    dispatcher = Dispatcher(store, limits_of(settings), wake=waker.wake, say=Wording(settings.locale).say)
    try:
        await run(settings, dispatcher.dispatch, ready, stop)
    finally:
        waker.close()
        await store.close()
