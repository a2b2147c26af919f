"""Every way in which a server can fail, over real sockets: what the request's reader hears of it, and when."""

import logging
import math

import pytest

from app.errors import EngineStopped, EngineUnavailable, RequestRejected
from tests.workers.engine.asking import ask
from tests.workers.engine.openai.conftest import PATIENT, QUICK, MakeEngine
from tests.workers.engine.openai.model_server import MODEL, ModelServer
from workers.engine.openai.client import Client, Limits
from workers.engine.openai.servers import FAILURES, Server

BEFORE_A_TOKEN = [
    "crash", "crashlater", "page", "packed", "nostream", "noevents", "nojson", "nested", "wrongtype", "notext",
    "hugeline", "hugeevent", "error", "silent", "late", "dripping", "status-500", "status-503", "status-429-9",
    "status-401", "status-405", "status-404", "moved", "empty",
]  # fmt: skip

SAY_NOTHING = ("silent", "late", "dripping", "stall")


@pytest.mark.parametrize("fault", BEFORE_A_TOKEN)
def test_a_server_that_fails_before_a_token_is_replaced_by_another(engine_at: MakeEngine, fault: str) -> None:
    engine = engine_at(fault, "echo", limits=QUICK if fault in SAY_NOTHING else PATIENT)

    result = engine.submit(ask("one two three")).result()

    assert (result.text, result.finish) == ("one two three", "stop")


@pytest.mark.parametrize("fault", ["stall", "reset", "cut", "over", "abort", "errorlater"])
def test_after_a_token_no_other_server_may_go_on(engine_at: MakeEngine, server: ModelServer, fault: str) -> None:
    """Two halves of two answers are no answer: the turn is done again."""
    engine = engine_at(fault, "echo", limits=QUICK if fault in SAY_NOTHING else PATIENT)

    handle = engine.submit(ask("hello"))

    with pytest.raises(EngineStopped):
        handle.result()
    assert [path.split("/")[1] for path, _ in server.asked] == [fault]
    assert engine.submit(ask("again")).result().text == "again"


@pytest.mark.parametrize("fault", ["status-500", "crash", "nojson", "error"])
def test_a_request_that_fails_wherever_it_comes_may_be_to_blame(engine_at: MakeEngine, fault: str) -> None:
    with pytest.raises(EngineStopped):
        engine_at(fault, fault).submit(ask("hello")).result()


def test_a_server_that_fails_everybody_condemns_no_single_request(engine_at: MakeEngine) -> None:
    """Once it is known to fail, its failures prove nothing: a lone person's message must outlive an outage."""
    engine = engine_at("status-500")
    server = next(iter(engine._servers))
    outcomes = []
    for _ in range(8):
        server.rests_until_s = -math.inf  # as if its rest were over
        with pytest.raises((EngineStopped, EngineUnavailable)) as told:
            engine.submit(ask("hello")).result()
        outcomes.append(told.type)

    assert outcomes == [EngineStopped] * 2 + [EngineUnavailable] * 6


async def test_a_server_that_failed_before_has_less_time_for_its_first_token(server: ModelServer) -> None:
    """Somebody waits for what may be the next failure."""
    client = Client(model=MODEL, slots=1, api_key="", ca_file=None, limits=Limits(first_token_s=60.0))
    hanging = Server(server.url("silent"))

    assert client._first_token_s(hanging) == 60.0
    hanging.failures = FAILURES

    assert client._first_token_s(hanging) == 10.0
    await client.close()


def test_a_hanging_server_is_not_asked_twice_for_one_question(engine_at: MakeEngine, server: ModelServer) -> None:
    with pytest.raises(EngineUnavailable):
        engine_at("silent", limits=QUICK).submit(ask("hello")).result()

    assert len(server.bodies()) == 1


@pytest.mark.parametrize("fault", ["status-429", "status-502", "status-503", "status-504", "late", "silent"])
def test_a_busy_server_is_no_fault_of_the_request(engine_at: MakeEngine, fault: str) -> None:
    """Its message must wait, not become a suspect: an overload would condemn everybody."""
    with pytest.raises(EngineUnavailable):
        engine_at(fault, limits=QUICK).submit(ask("hello")).result()


def test_retry_after_is_heeded(engine_at: MakeEngine, server: ModelServer) -> None:
    engine = engine_at("status-429-30")

    for _ in range(3):
        with pytest.raises(EngineUnavailable) as refused:
            engine.submit(ask("hello")).result()

    assert 25 < refused.value.retry_after_s <= 30
    assert len(server.bodies()) == 1


def test_a_server_that_is_not_there(engine_at: MakeEngine) -> None:
    with pytest.raises(EngineUnavailable, match="no connection"):
        engine_at(urls=("http://127.0.0.1:9/v1",)).submit(ask("hello")).result()


def test_a_host_without_a_name(engine_at: MakeEngine) -> None:
    with pytest.raises(EngineUnavailable, match="no connection"):
        engine_at(urls=("http://nobody.invalid/v1",)).submit(ask("hello")).result()


@pytest.mark.parametrize(
    ("fault", "setting"),
    [
        ("status-401", "SWITCHYARD_OPENAI_API_KEY"),
        ("status-403", "SWITCHYARD_OPENAI_API_KEY"),
        ("echo", "SWITCHYARD_MODEL"),
        ("status-405", "SWITCHYARD_OPENAI_BASE_URLS"),
        ("moved", "SWITCHYARD_OPENAI_BASE_URLS"),
    ],
)
def test_a_wrong_setting_is_named_and_loses_no_message(
    engine_at: MakeEngine, caplog: pytest.LogCaptureFixture, fault: str, setting: str
) -> None:
    """A key that expires at night: the messages wait for its mend as for a server that is away."""
    with pytest.raises(EngineUnavailable, match=setting):
        engine_at(fault, model="large").submit(ask("hello")).result()

    assert [record for record in caplog.records if setting in str(record.__dict__) and record.levelno == logging.ERROR]


def test_what_no_server_will_run_is_refused_with_the_servers_reason(engine_at: MakeEngine) -> None:
    with pytest.raises(RequestRejected, match="top_k must be even"):
        engine_at("reject", "echo").submit(ask("hello", top_k=3)).result()


@pytest.mark.parametrize("fault", ["status-400", "status-422"])
def test_nobody_is_quoted_in_a_reason_or_a_log(
    engine_at: MakeEngine, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """Servers repeat what they refuse."""
    caplog.set_level(logging.DEBUG)

    with pytest.raises(RequestRejected, match="SomeError") as refused:
        engine_at(fault).submit(ask("my salary is low")).result()

    assert "salary" not in str(refused.value)
    assert not [record for record in caplog.records if "salary" in str(record.__dict__)]


def test_an_error_inside_the_stream_has_its_own_status(engine_at: MakeEngine) -> None:
    with pytest.raises(RequestRejected, match="bad seed"):
        engine_at("errorbad").submit(ask("hello")).result()


def test_an_adapter_is_a_model_of_the_server(engine_at: MakeEngine, server: ModelServer) -> None:
    engine = engine_at("echo")

    assert engine.submit(ask("bonjour", adapter="french")).result().text == "bonjour"
    assert server.bodies()[-1]["model"] == "french"
    with pytest.raises(RequestRejected, match="adapter"):
        engine.submit(ask("hola", adapter="spanish")).result()


def test_parameters_that_a_server_does_not_know_are_left_out_from_then_on(
    engine_at: MakeEngine, server: ModelServer
) -> None:
    engine = engine_at("old")

    texts = [engine.submit(ask(text, max_new_tokens=5)).result().text for text in ("one", "two")]

    assert texts == ["one", "two"]
    assert len(server.bodies()) == 4
    assert server.bodies()[-1]["max_completion_tokens"] == 5


def test_a_server_that_failed_rests_and_is_asked_again(engine_at: MakeEngine, server: ModelServer) -> None:
    """Nobody waits for a server that is known to be ill."""
    engine = engine_at("crash", "echo")

    for _ in range(12):
        assert engine.submit(ask("hello")).result().text == "hello"

    asked = [path.split("/")[1] for path, _ in server.asked]
    assert asked.count("crash") == 3
