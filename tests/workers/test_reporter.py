"""A text worker tells the record what its engine counts, and its numbers come to GET /metrics."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from app.engines import EngineFigures, read_engines
from app.machine import worker_name
from app.message import Message
from app.redis import Store
from app.settings import Settings
from app.web.server import application
from sandbox.process import Sandbox
from tests.app.supervised import eventually
from tests.samples import a_message
from tests.scraping import engine_samples
from tests.valkey import valkey
from tests.workers.engine.asking import ask, first_piece
from tests.workers.worker import LEAVE_S, Worker, spoken_to
from workers.engine.echo import EchoEngine
from workers.reporter import Reporter

NAME = "text1@here"


@pytest.fixture
def engine() -> Iterator[EchoEngine]:
    with closing(EchoEngine(slots=2, tokens_per_s=50)) as engine:
        yield engine


def told(store: Store) -> EngineFigures:
    return read_engines(store)[NAME]


def test_what_the_engine_counts_is_told_again_and_again(valkey_url: str, store: Store, engine: EchoEngine) -> None:
    with closing(Reporter(valkey_url, NAME, engine.figures, interval_s=0.05)) as reporter:
        reporter.start()
        eventually(lambda: NAME in read_engines(store))
        handle = engine.submit(ask("word " * 500))
        first_piece(handle)

        eventually(lambda: (told(store).running, told(store).waiting) == (1, 0))
        eventually(lambda: told(store).generated_tokens > 5)
        handle.cancel()
        eventually(lambda: told(store).ended["cancelled"] == 1)

    assert told(store).running == 0


def test_nothing_is_told_any_more_when_it_is_closed(valkey_url: str, store: Store, engine: EchoEngine) -> None:
    reporter = Reporter(valkey_url, NAME, engine.figures, interval_s=0.02)
    reporter.start()
    eventually(lambda: NAME in read_engines(store))

    reporter.close()

    assert [thread for thread in threading.enumerate() if thread.name == "reporter"] == []


def test_the_speed_is_of_the_last_readings(valkey_url: str, store: Store) -> None:
    """10 tokens a second for two seconds, then 100."""
    now, engine = [0.0], EchoEngine(slots=1)

    def speaks(tokens: int) -> float | None:
        engine.submit(ask("word " * tokens)).result()
        now[0] += 1.0
        reporter.report()
        return told(store).tokens_per_s

    with closing(Reporter(valkey_url, NAME, engine.figures, clock=lambda: now[0])) as reporter:
        reporter.report()
        first = told(store).tokens_per_s
        speeds = [speaks(tokens) for tokens in (9, 9, 99, 99, 99, 99, 99)]

    assert first == 0
    assert speeds[0] == speeds[1] == 10.0
    assert speeds == sorted(speeds, key=float)  # type: ignore[arg-type]
    assert speeds[-1] == 100.0


@contextmanager
def asleep(store: Store) -> Iterator[None]:
    """The record takes connections and answers nobody."""
    pid = int(store.client.info()["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_record_that_does_not_answer_costs_one_line_of_the_log_and_nothing_else(
    tmp_path: Path, engine: EchoEngine
) -> None:
    with valkey(tmp_path / "record") as url, closing(Store(url)) as store:
        with closing(Reporter(url, NAME, engine.figures)) as reporter, capture_logs() as logs:
            reporter.report()
            with asleep(store):
                reporter.report()
                reporter.report()
            reporter.report()
            reporter.report()

        assert NAME in read_engines(store)
    assert [line["log_level"] for line in logs] == ["warning", "info"]


def test_a_worker_is_on_the_page_and_its_successor_counts_from_zero(
    start: Callable[..., Worker],
    wake: Callable[..., Message],
    platform: Sandbox,
    valkey_url: str,
    tmp_path: Path,
) -> None:
    """Under the same name, so that Prometheus sees a counter that was reset and not another machine."""
    settings = Settings(data_dir=tmp_path, redis_url=SecretStr(valkey_url), _env_file=None)
    name = worker_name("text1@switchyard", tmp_path / "data")

    def read() -> dict[str, float]:
        return asyncio.run(scraped(settings))

    first = start("text").until_ready()
    wake(spoken_to(platform, a_message(text="one two three")), "text")
    eventually(lambda: read().get(f"generated_tokens_total{{{name}}}") == 3)
    answered = read()
    first.terminate()
    assert first.status(LEAVE_S) == 0
    start("text").until_ready()

    assert answered[f"ended_requests_total{{{name},stop}}"] == 1
    assert answered[f"first_token_seconds_count{{{name}}}"] == 1
    assert answered[f"running_requests{{{name}}}"] == answered[f"waiting_requests{{{name}}}"] == 0
    assert [one for one in answered if "cache" in one or name not in one] == []
    eventually(lambda: read().get(f"generated_tokens_total{{{name}}}") == 0)


async def scraped(settings: Settings) -> dict[str, float]:
    """The engines' numbers on the page of a new web process."""
    transport = httpx.ASGITransport(application(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://switchyard") as pages:
        return engine_samples((await pages.get("/metrics")).text)
