"""Real worker processes on a real record, a real broker and a sandbox."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from textwrap import dedent

import pytest

from app.message import Message
from app.queue import Waker, create_celery
from app.redis import Store
from app.settings import Pool
from sandbox.process import Sandbox, running_sandbox
from tests.valkey import valkey
from tests.workers.desk import House, a_house
from tests.workers.worker import Worker


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with valkey(tmp_path_factory.mktemp("broker")) as url:
        yield url


@pytest.fixture(scope="module")
def platform() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def house(store: Store) -> Iterator[House]:
    with a_house(store) as house:
        yield house


@pytest.fixture
def waker(broker_url: str) -> Iterator[Waker]:
    waker = Waker(create_celery("test", broker_url))
    yield waker
    waker.close()


@pytest.fixture
def wake(waker: Waker, house: House) -> Callable[..., Message]:
    """A message is accepted, and its queue is woken through the broker."""

    def accept_and_wake(message: Message, queue: str) -> Message:
        house.gets(message, queue)
        waker.wake(queue, message.conversation)
        return message

    return accept_and_wake


@pytest.fixture
def start(
    valkey_url: str, broker_url: str, platform: Sandbox, store: Store, tmp_path: Path
) -> Iterator[Callable[..., Worker]]:
    """Start a worker that is ended with the test, whatever happens."""
    urls = {"redis_url": valkey_url, "broker_url": broker_url}
    usual = {"SWITCHYARD_ENGINE": "echo", "SWITCHYARD_LOCALE": "en", **platform.environment()}
    usual["SWITCHYARD_DATA_DIR"] = str(tmp_path / "data")
    numbers = count(1)
    with ExitStack() as stack:

        def start_one(pool: Pool, **settings: str) -> Worker:
            worker = Worker(pool, urls, tmp_path / f"{pool}-{next(numbers)}.log", **{**usual, **settings})
            stack.callback(worker.end)
            return worker

        yield start_one


SLEEPY = """
import ctypes, pathlib, time

class Blocks:
    '''Hangs until the process ends.'''
    commands = ["hang"]
    def __init__(self, context): pass
    def pre_process(self, message): return message
    def execute(self, message):
        pathlib.Path(message.text.split()[1]).touch()
        while True:
            time.sleep(0.05)
    def post_process(self, result): return result

class Seizes(Blocks):
    '''Holds the interpreter in a C library: no thread of this process runs any more.'''
    commands = ["seize"]
    def execute(self, message):
        pathlib.Path(message.text.split()[1]).touch()
        ctypes.PyDLL(None).sleep(3600)

class Waits(Blocks):
    '''Answers when a file is there.'''
    commands = ["wait"]
    time_limit_s = 60
    def execute(self, message):
        started, go = map(pathlib.Path, message.text.split()[1:])
        started.touch()
        while not go.exists():
            time.sleep(0.05)
        return "done"
"""


@pytest.fixture
def sleepy(tmp_path: Path) -> dict[str, str]:
    """Settings with skills that take their time."""
    folder = tmp_path / "skills"
    folder.mkdir()
    (folder / "sleepy.py").write_text(dedent(SLEEPY))
    return {"SWITCHYARD_SKILLS_DIR": str(folder), "SWITCHYARD_LEASE_S": "1"}
