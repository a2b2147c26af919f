"""The listener's process: the settings, the record, the wake-ups and the loop, wired together."""

import asyncio
import os
import signal
from contextlib import closing

import uvloop

from app import crashpoints, keys
from app.acceptance import Accepted
from app.disk import DiskGuard
from app.installation import check_record, limits_of
from app.listener import run
from app.machine import machine_name
from app.message import Message
from app.process import end_with_parent, ready
from app.queue import Wake, Waker, create_celery
from app.redis import AsyncStore, Store
from app.routing import Dispatcher
from app.servers import disk_of_record
from app.settings import Settings
from app.wording import Wording

CONNECTED_MS = 10_000  # so long after the last word the listener counts as cut off from the platform


def main(settings: Settings) -> None:
    """Listen until SIGTERM, and wake the workers. Raises BadSetting if the record is not ours to read."""
    if settings.test_installation:
        crashpoints.obey_orders(settings.data_dir)
    with closing(Waker(create_celery("switchyard.listener", settings.broker_url.get_secret_value()))) as waker:
        listen(settings, wake=waker.wake)


def listen(settings: Settings, *, wake: Wake) -> None:
    """Listen until SIGTERM; `wake` hears of everything that was stored. Raises as main."""
    end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with closing(Store(settings.redis_url.get_secret_value())) as store:
        check_record(store)
    uvloop.run(_listen(settings, wake))


async def _listen(settings: Settings, wake: Wake) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    machine = machine_name(settings.data_dir)
    store = AsyncStore(settings.redis_url.get_secret_value(), replicas=settings.replicas_ack)
    dispatcher = Dispatcher(store, limits_of(settings), wake=wake, say=Wording(settings.locale).say)
    disk = DiskGuard(disk_of_record(settings))

    async def accept(message: Message) -> Accepted:
        await disk.require_room()
        return await dispatcher.dispatch(message)

    try:
        await run(settings, accept, ready, stop, tell=lambda: tell_connected(store, machine))
    finally:
        await store.close()


async def tell_connected(store: AsyncStore, machine: str) -> None:
    """Write into the record that a machine's listener has a connection to the platform. Raises StoreUnavailable."""
    await store.run("tell", [keys.listening(machine)], [1, CONNECTED_MS])
