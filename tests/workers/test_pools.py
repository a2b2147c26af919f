"""The real worker processes, started as the supervisor starts them: what they load, how they end."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery import signals
from kombu.asynchronous.hub import Hub

from app import keys
from app.context import recall
from app.message import Message
from app.queue import create_celery
from prove.broker import cut_clients
from sandbox.client import SandboxClient
from sandbox.process import Sandbox
from tests.app.supervised import ROOT, eventually
from tests.samples import a_message, a_picture
from tests.valkey import free_port, valkey
from tests.workers.desk import House
from tests.workers.engine.openai.model_server import MODEL, model_server
from tests.workers.worker import BOOT_S, LEAVE_S, Worker, spoken_to
from workers.consumer import TidyConsumer
from workers.pool import HEED_S, grace_s

MODELS = ROOT / ".switchyard" / "models"
AWAY = 8  # times that the broker is there and dies
PAIRS = 30  # turns of an image worker with its two threads


def test_every_pool_does_its_work_without_torch(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House, platform: Sandbox
) -> None:
    """Three pools have no use for the model that is set; `text` has none with `echo`: a small machine can run it."""
    model = {"SWITCHYARD_ENGINE": "auto", "SWITCHYARD_MODEL_CACHE_DIR": str(MODELS)}
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


def test_a_text_worker_whose_model_is_at_a_server_loads_no_torch(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House
) -> None:
    """Its machine needs no GPU."""
    with model_server() as server:
        servers = {"SWITCHYARD_OPENAI_BASE_URLS": server.url("vllm"), "SWITCHYARD_MODEL": MODEL}
        worker = start("text", SWITCHYARD_ENGINE="openai", **servers).until_ready()
        message = wake(a_message(text="Say hello."), "text")

        eventually(lambda: house.texts(message))

        assert house.texts(message) == ["Say hello."]
        assert not worker.holds_torch


def test_a_model_that_no_server_has_stops_the_start(start: Callable[..., Worker]) -> None:
    with model_server() as server:
        servers = {"SWITCHYARD_OPENAI_BASE_URLS": server.url("vllm"), "SWITCHYARD_MODEL": "large"}
        worker = start("text", SWITCHYARD_ENGINE="openai", **servers)

        assert worker.status(BOOT_S) != 0

    assert f"SWITCHYARD_MODEL: the servers have no large; they have {MODEL}" in worker.log


def test_a_worker_that_cannot_start_says_why_in_a_line_without_its_secrets(start: Callable[..., Worker]) -> None:
    with model_server() as server:
        worker = start(
            "text",
            SWITCHYARD_ENGINE="openai",
            SWITCHYARD_OPENAI_BASE_URLS=server.url("locked"),
            SWITCHYARD_OPENAI_API_KEY="sk-hunter2hunter2",
            SWITCHYARD_MODEL=MODEL,
        )
        assert worker.status(BOOT_S) != 0

    assert "this worker cannot start" in worker.log
    assert "SWITCHYARD_OPENAI_API_KEY" in worker.log
    assert "hunter2" not in worker.log
    assert "Traceback" not in worker.log


def test_an_error_that_nobody_thought_of_shows_where_it_was_and_no_secret(start: Callable[..., Worker]) -> None:
    worker = start("text", SWITCHYARD_REDIS_URL=f"redis://:hunter2hunter2@127.0.0.1:{free_port()}/0")

    assert worker.status(BOOT_S) != 0
    assert "this worker cannot start" in worker.log
    assert "Traceback" in worker.log
    assert "hunter2" not in worker.log


def test_what_is_logged_at_the_start_has_its_fields(start: Callable[..., Worker]) -> None:
    """A model server that is away stops nobody, but an operator must read which one."""
    url = f"http://127.0.0.1:{free_port()}/v1"

    worker = start("text", SWITCHYARD_ENGINE="openai", SWITCHYARD_OPENAI_BASE_URLS=url, SWITCHYARD_MODEL=MODEL)
    worker.until_ready()

    assert url in worker.log


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


def test_a_worker_whose_broker_was_away_fetches_as_soon_as_before(
    start: Callable[..., Worker], wake: Callable[..., Message], house: House, broker_url: str
) -> None:
    """Busy with both its threads, and not a second late for each next pair of turns."""
    start("image").until_ready()
    cut_clients(broker_url)
    first = wake(a_picture("no-such-picture"), "image")
    eventually(lambda: house.texts(first))

    began = time.monotonic()
    messages = [wake(a_picture("no-such-picture", sender=f"person {number}"), "image") for number in range(PAIRS * 2)]
    eventually(lambda: all(house.texts(message) for message in messages))

    assert time.monotonic() - began < PAIRS / 2


def test_a_broker_that_dies_leaves_nothing_open(start: Callable[..., Worker], tmp_path: Path) -> None:
    """Else a worker would run out of files after some hundred deaths."""
    port, worker, opened = free_port(), None, []
    for number in range(AWAY):
        with valkey(tmp_path / str(number), port=port) as url, redis.Redis.from_url(url) as broker:
            worker = worker or start("default", SWITCHYARD_BROKER_URL=url).until_ready()
            eventually(lambda broker=broker: "brpop" in [one["cmd"] for one in broker.client_list()])  # type: ignore[misc]
            opened.append(worker.open_files)

    assert opened[-1] < opened[0] + AWAY // 2


def test_a_broken_connection_leaves_nothing_in_the_loop(broker_url: str) -> None:
    """Else the loop would call into each dead connection at each of its turns, for the rest of the process's life."""
    consumer = TidyConsumer.__new__(TidyConsumer)  # of a worker that was never started: this needs its connection only
    consumer.app, consumer.hub = create_celery("test", broker_url), Hub()
    consumer.app.conf.worker_enable_prefetch_count_reduction = False
    consumer.connection = consumer.app.connection_for_read()
    connected = consumer.connection.connection
    consumer.connection.transport.register_with_event_loop(connected, consumer.hub)
    assert consumer.hub.on_tick

    with pytest.warns(PendingDeprecationWarning):  # Celery's, of its next version
        consumer.on_connection_error_after_connected(ConnectionError("gone"))

    assert not consumer.hub.on_tick


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
    house.store.client.hset(keys.made_for(0), "shards", 5)
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
