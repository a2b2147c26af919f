"""The real worker processes, started as the supervisor starts them: what they load, how they end."""

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest
from celery import signals

from app.context import recall
from app.message import Message
from app.process import READY_FD
from app.queue import Waker, create_celery
from app.redis import Store
from app.roles import roles
from app.settings import Pool, Settings
from sandbox.client import SandboxClient
from sandbox.process import Sandbox, running_sandbox
from tests.app.supervised import ROOT, environment, eventually
from tests.samples import a_message, a_picture
from tests.valkey import valkey
from tests.workers.desk import House, a_house
from workers.pool import HEED_S, grace_s

BOOT_S = 60.0
DRAIN_S = 6.0
LEAVE_S = 30.0  # a worker has left long before; a busy machine may be late
MODELS = ROOT / ".switchyard" / "models"


class Worker:
    """One pool's process, with the pipe on which it says that it is ready."""

    def __init__(self, pool: Pool, urls: dict[str, str], log: Path, **settings: str) -> None:
        self._log = log
        spec = next(spec for spec in roles(Settings(**urls)) if spec.role == pool)  # type: ignore[arg-type]
        named = {f"SWITCHYARD_{name.upper()}": value for name, value in urls.items()}
        self._word, said = os.pipe()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                spec.command(1),
                cwd=ROOT,
                env=environment(**{**named, "SWITCHYARD_DRAIN_S": str(DRAIN_S), **settings, READY_FD: str(said)}),
                stdout=output,
                stderr=output,
                pass_fds=[said],
            )
        os.close(said)

    def until_ready(self) -> "Worker":
        readable, _, _ = select.select([self._word], [], [], BOOT_S)
        assert readable, self.log
        assert os.read(self._word, 64) == b"ready\n", self.log
        return self

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def holds_torch(self) -> bool:
        return "libtorch" in Path(f"/proc/{self.process.pid}/maps").read_text()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def status(self, within_s: float) -> int:
        return self.process.wait(within_s)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._word)


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
def wake(broker_url: str, house: House) -> Iterator[Callable[..., Message]]:
    """A message is accepted, and its queue is woken through the broker."""
    waker = Waker(create_celery("test", broker_url))

    def accept_and_wake(message: Message, queue: str) -> Message:
        house.gets(message, queue)
        waker.wake(queue, message.conversation)
        return message

    yield accept_and_wake
    waker.close()


@pytest.fixture
def start(
    valkey_url: str, broker_url: str, platform: Sandbox, store: Store, tmp_path: Path
) -> Iterator[Callable[..., Worker]]:
    """Start a worker that is ended with the test, whatever happens."""
    urls = {"redis_url": valkey_url, "broker_url": broker_url}
    usual = {"SWITCHYARD_ENGINE": "echo", "SWITCHYARD_LOCALE": "en", **platform.environment()}
    with ExitStack() as stack:

        def start_one(pool: Pool, **settings: str) -> Worker:
            worker = Worker(pool, urls, tmp_path / f"{pool}.log", **{**usual, **settings})
            stack.callback(worker.end)
            return worker

        yield start_one


def spoken_to(platform: Sandbox, message: Message) -> Message:
    """The message as somebody sent it to the platform's own robot."""
    address = msgspec.structs.replace(message.address, robot=platform.client_id)
    return msgspec.structs.replace(message, address=address)


def test_every_pool_does_its_work_without_torch(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House, platform: Sandbox
) -> None:
    """Three pools have no use for the model that is set; `text` has none with `echo`: a small machine can run it."""
    model = {"SWITCHYARD_ENGINE": "slots", "SWITCHYARD_MODEL_CACHE_DIR": str(MODELS)}
    workers = [start("text"), *(start(pool, **model) for pool in ("image", "default", "sender"))]
    for worker in workers:
        worker.until_ready()
    messages = [
        wake(spoken_to(platform, a_message(text="hello")), "text"),
        wake(spoken_to(platform, a_message(text="/new", sender="bob")), "default"),
        wake(spoken_to(platform, a_picture("no-such-picture")), "image"),
    ]
    expected = ["hello", house.wording.say("new_done"), house.wording.say("bad_picture")]

    with SandboxClient(platform.url) as sandbox:
        eventually(lambda: len([card for card in sandbox.cards() if card["state"] == "finished"]) == len(messages))
        shown = [card["text"] for card in sandbox.cards()]

    assert sorted(shown) == sorted(expected)
    assert [worker.holds_torch for worker in workers] == [False] * 4
    assert house.dead_letters(messages[0]) == []


def test_torch_is_loaded_in_text_with_a_model(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House
) -> None:
    worker = start(
        "text",
        SWITCHYARD_ENGINE="slots",
        SWITCHYARD_SLOTS="2",
        SWITCHYARD_ANSWER_TOKENS="4",
        SWITCHYARD_MODEL_CACHE_DIR=str(MODELS),
    ).until_ready()
    message = wake(a_message(text="Say hello."), "text")

    eventually(lambda: house.texts(message), within_s=60.0)

    assert worker.holds_torch
    assert [line.role for line in recall(house.store, message.conversation)] == ["user", "assistant"]


def test_a_worker_that_is_told_to_leave_finishes_or_hands_back(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House
) -> None:
    """A short answer is finished, a long one is somebody else's, and nobody is counted a suspect."""
    roomy = {"SWITCHYARD_DRAIN_S": "9"}  # four seconds for an answer of half a second
    worker = start("text", SWITCHYARD_ECHO_TOKENS_PER_S="4", **roomy).until_ready()
    long = wake(a_message(text="word " * 200, sender="long"), "text")
    eventually(lambda: house.draft(long))
    short = wake(a_message(text="in time", sender="short"), "text")
    eventually(lambda: house.draft(short))

    worker.terminate()
    status = worker.status(LEAVE_S)

    assert status == 0, worker.log
    assert house.texts(short) == ["in time"]
    assert house.texts(long) == []
    held = house.take(long)
    assert (held.vanished, held.raised) == (0, 0)


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


def test_a_hung_turn_costs_the_process_and_no_neighbour(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House, sleepy: dict[str, str], tmp_path: Path
) -> None:
    """Threads cannot be ended: the process leaves with the status that asks for the next one."""
    hanging, waiting, go = (tmp_path / name for name in ("hanging", "waiting", "go"))
    worker = start("default", SWITCHYARD_TURN_LIMIT_S="1", **sleepy).until_ready()
    neighbour = wake(a_message(text=f"/wait {waiting} {go}", sender="neighbour"), "default")
    hung = wake(a_message(text=f"/hang {hanging}", sender="hung"), "default")
    eventually(lambda: hanging.exists() and waiting.exists())
    eventually(lambda: "process will be replaced" in worker.log)

    go.touch()
    status = worker.status(LEAVE_S)

    assert status == 75, worker.log
    assert house.texts(neighbour) == ["done"]
    assert house.texts(hung) == []
    held = house.take(hung, "default")
    assert (held.vanished, held.suspect) == (3, True)
    assert "time.sleep(0.05)" in held.note


def test_a_process_whose_only_turn_hangs_leaves_at_once(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House, sleepy: dict[str, str], tmp_path: Path
) -> None:
    """There is nothing to wait for, and its people wait for the next process."""
    hanging, patient = tmp_path / "hanging", {"SWITCHYARD_DRAIN_S": "600", "SWITCHYARD_TURN_LIMIT_S": "1"}
    worker = start("default", **patient, **sleepy).until_ready()
    wake(a_message(text=f"/hang {hanging}"), "default")
    eventually(hanging.exists)

    status = worker.status(LEAVE_S)

    assert status == 75, worker.log


def test_a_process_whose_interpreter_is_held_ends_and_says_where(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House, sleepy: dict[str, str], tmp_path: Path
) -> None:
    """It cannot leave by itself, nor renew; and nobody would start the next one while it is there."""
    seized, waiting, go = (tmp_path / name for name in ("seized", "waiting", "go"))
    worker = start("default", **{**sleepy, "SWITCHYARD_LEASE_S": "0.5"}).until_ready()
    neighbour = wake(a_message(text=f"/wait {waiting} {go}", sender="neighbour"), "default")
    eventually(waiting.exists)
    wake(a_message(text=f"/seize {seized}", sender="seizing"), "default")

    status = worker.status(LEAVE_S)

    assert status == 1, worker.log
    assert "in execute" in worker.log
    assert house.take(neighbour, "default").vanished == 1


def test_a_skill_that_does_not_listen_is_handed_back_and_left_behind(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House, sleepy: dict[str, str], tmp_path: Path
) -> None:
    """It is slow, not guilty: another worker does it again, and it counts as no attempt."""
    hanging = tmp_path / "hanging"
    worker = start("default", **sleepy).until_ready()
    message = wake(a_message(text=f"/hang {hanging}"), "default")
    eventually(hanging.exists)

    worker.terminate()
    status = worker.status(LEAVE_S)

    assert status == 0, worker.log
    held = house.take(message, "default")
    assert (held.vanished, held.raised) == (0, 0)


def test_a_worker_without_its_record_does_not_start(start: Callable[..., Worker], house: House) -> None:
    """Celery would start all the same, and take wake-ups that it cannot serve."""
    house.store.client.hset("switchyard", "shards", 5)
    worker = start("default")

    assert worker.status(BOOT_S) == 1
    assert "5 shards" in worker.log


@pytest.mark.parametrize("drain_s", [5.0, 6.0, 10.0, 20.0])
def test_a_worker_has_handed_back_before_it_is_killed(drain_s: float) -> None:
    """The supervisor gives the listener its share of the drain first, and kills the workers before the end of it."""
    told_s, killed_s = 0.075 * drain_s, drain_s - 2.2

    handed_back_s = told_s + grace_s(drain_s) + HEED_S

    assert handed_back_s < killed_s


def test_a_process_that_only_wakes_does_not_listen_to_tasks(broker_url: str) -> None:
    """Fetching at once is a worker's business."""
    before = list(signals.task_postrun.receivers)

    create_celery("test", broker_url)

    assert signals.task_postrun.receivers == before
