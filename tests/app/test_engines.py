"""What engines say of themselves, from the record to GET /metrics and `switchyard status`."""

import dataclasses
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from app import keys
from app.engine_metrics import engine_metrics
from app.engines import KEPT_S, VERSION, EngineFigures, read_engines, tell_engine
from app.machine import machine_name, worker_name
from app.redis import Store
from app.settings import Settings
from app.status import report
from app.web.server import application
from tests.scraping import engine_samples
from tests.valkey import free_port
from workers.engine.figures import ENDS, Figures, Spread

KNOWN = Figures(
    slots=16,
    running=3,
    waiting=2,
    prompt_tokens=1000,
    generated_tokens=500,
    ended=dict.fromkeys(ENDS, 4),
    first_token_s=Spread(bounds=(0.5, 1.0), counts=(3, 0, 1), sum_s=12.25),
    output_token_s=Spread(bounds=(0.05,), counts=(2, 2), sum_s=0.5),
    reused_tokens=300,
    cache_tokens=4096,
    cache_tokens_used=700,
    evictions=5,
    restarts=1,
    out_of_memory=6,
)
FEW = Figures(
    slots=8,
    running=0,
    waiting=0,
    prompt_tokens=0,
    generated_tokens=0,
    ended=dict.fromkeys(ENDS, 0),
    first_token_s=Spread(bounds=(0.5, 1.0), counts=(0, 0, 0), sum_s=0.0),
    output_token_s=Spread(bounds=(0.05,), counts=(0, 0), sum_s=0.0),
)


@pytest.fixture
async def pages(valkey_url: str, store: Store, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(data_dir=tmp_path, redis_url=SecretStr(valkey_url), _env_file=None)
    transport = httpx.ASGITransport(application(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://switchyard") as pages:
        yield pages


async def test_what_engines_tell_is_on_the_page(pages: httpx.AsyncClient, store: Store) -> None:
    tell_engine(store, "text1@one", KNOWN.plain())
    tell_engine(store, "text1@two", FEW.plain())

    found = engine_samples((await pages.get("/metrics")).text)

    ended = {f"ended_requests_total{{text1@one,{how}}}": 4.0 for how in ENDS}
    assert {name: value for name, value in found.items() if "text1@one" in name} == ended | {
        "slots{text1@one}": 16,
        "running_requests{text1@one}": 3,
        "waiting_requests{text1@one}": 2,
        "prompt_tokens_total{text1@one}": 1000,
        "reused_prompt_tokens_total{text1@one}": 300,
        "generated_tokens_total{text1@one}": 500,
        "cache_tokens{text1@one}": 4096,
        "cache_used_tokens{text1@one}": 700,
        "cache_evictions_total{text1@one}": 5,
        "restarts_total{text1@one}": 1,
        "out_of_memory_total{text1@one}": 6,
        "first_token_seconds_bucket{text1@one,0.5}": 3,
        "first_token_seconds_bucket{text1@one,1.0}": 3,
        "first_token_seconds_bucket{text1@one,+Inf}": 4,
        "first_token_seconds_count{text1@one}": 4,
        "first_token_seconds_sum{text1@one}": 12.25,
        "output_token_seconds_bucket{text1@one,0.05}": 2,
        "output_token_seconds_bucket{text1@one,+Inf}": 4,
        "output_token_seconds_count{text1@one}": 4,
        "output_token_seconds_sum{text1@one}": 0.5,
    }
    assert found["slots{text1@two}"] == 8
    unknown = ("cache", "reused", "evictions", "restarts", "out_of_memory")
    assert [name for name in found if "text1@two" in name and any(word in name for word in unknown)] == []


def test_what_an_engine_counts_has_a_place_here() -> None:
    """Two programs of one release know the fields by heart: what is new in one of them is new in the other."""
    counted = {field.name for field in dataclasses.fields(Figures)}

    assert counted | {"version", "tokens_per_s"} == set(EngineFigures.__struct_fields__)
    assert KNOWN.plain().keys() == counted | {"version"}


async def test_a_house_without_engines_has_none_of_their_metrics(pages: httpx.AsyncClient, store: Store) -> None:
    page = (await pages.get("/metrics")).text

    assert "switchyard_record_up 1.0" in page
    assert "switchyard_engine" not in page


def test_an_engine_that_is_silent_is_forgotten(store: Store) -> None:
    """A process that died must not look as if it still worked, nor stay in the record for ever."""
    tell_engine(store, "text1@one", KNOWN.plain())
    tell_engine(store, "text2@one", KNOWN.plain())
    assert 0 < store.client.pttl(keys.ENGINES) <= KEPT_S * 1000
    told = store.client.hget(keys.ENGINES, "text1@one")
    assert isinstance(told, bytes)
    store.client.hset(keys.ENGINES, "text1@one", b"1 " + told.partition(b" ")[2])  # as if that was long ago

    seen = list(read_engines(store))
    tell_engine(store, "text2@one", KNOWN.plain())

    assert seen == ["text2@one"]
    assert store.client.hkeys(keys.ENGINES) == [b"text2@one"]


@pytest.mark.parametrize(
    "told", [KNOWN.plain() | {"version": VERSION + 1}, {"version": VERSION}, {"version": VERSION + 1, "a": "b"}]
)
def test_what_another_release_tells_in_its_own_way_is_left_alone(store: Store, told: dict[str, object]) -> None:
    """While a house is upgraded both run; the others are shown all the same."""
    tell_engine(store, "text1@one", told)
    tell_engine(store, "text2@one", KNOWN.plain() | {"more": 1})

    assert list(read_engines(store)) == ["text2@one"]


def test_a_full_record_still_hears_of_its_engines(store: Store) -> None:
    """That is when somebody looks."""
    store.client.config_set("maxmemory", "1")
    try:
        tell_engine(store, "text1@one", KNOWN.plain())
        told = read_engines(store)
    finally:
        store.client.config_set("maxmemory", "0")

    assert list(told) == ["text1@one"]


def test_the_metrics_keep_to_the_conventions(store: Store) -> None:
    """As `promtool check metrics` has them: a help, base units, `_total` for what is counted, buckets that grow."""
    tell_engine(store, "text1@one", KNOWN.plain())

    for family in engine_metrics(read_engines(store)):
        assert family.documentation
        assert re.fullmatch(r"switchyard_engine_[a-z_]+", family.name)
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|s)$", family.name)
        names = {sample.name.removeprefix(family.name) for sample in family.samples}
        wanted = {"counter": {"_total"}, "gauge": {""}, "histogram": {"_bucket", "_count", "_sum"}}
        assert names == wanted[family.type]
        assert all(sample.labels["worker"] == "text1@one" for sample in family.samples)
        buckets = [(float(one.labels["le"]), one.value) for one in family.samples if one.name.endswith("_bucket")]
        assert buckets == sorted(buckets)
        assert [value for _, value in buckets] == sorted(value for _, value in buckets)
        assert family.type != "histogram" or buckets[-1][0] == math.inf


def test_status_has_a_line_for_each_engine(valkey_url: str, store: Store) -> None:
    tell_engine(store, "text1@one", KNOWN.plain() | {"tokens_per_s": 41.5})
    tell_engine(store, "text2@one", FEW.plain())

    lines = report(Settings(redis_url=SecretStr(valkey_url), broker_url=f"redis://127.0.0.1:{free_port()}/0"))

    assert [line for line in lines if line.startswith("engine")] == [
        "engine text1@one: 3 of 16 slots in use, 2 waiting, 41.5 tokens/s",
        "engine text2@one: 0 of 8 slots in use, 0 waiting, 0 tokens/s",
    ]


def test_a_worker_has_the_name_of_its_place_and_its_machine(tmp_path: Path) -> None:
    """Its successor has the same, one of another machine has another; one that was started by hand keeps its own."""
    first, again = (worker_name("text1@switchyard", tmp_path / "data") for _ in range(2))

    assert first == again
    assert first == f"text1@{machine_name(tmp_path / 'data')[:8]}"
    assert worker_name("text1@switchyard", tmp_path / "other") != first
    assert worker_name("celery@gpu7", tmp_path / "third") == "celery@gpu7"
    assert not (tmp_path / "third").exists()


def test_a_worker_without_a_folder_of_its_own_has_a_name_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    name = worker_name("text1@switchyard", tmp_path / "file")

    assert re.fullmatch(r"text1@.+", name)
