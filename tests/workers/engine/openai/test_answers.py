"""Answers of one server, over real sockets: text, stop strings, usage, cancels, the turn's signs of life."""

import threading
import time

import pytest

from app.errors import EngineStopped
from tests.workers.engine.asking import ask, first_piece, until
from tests.workers.engine.openai.conftest import MakeEngine
from tests.workers.engine.openai.model_server import KEY, ModelServer
from workers.engine.interface import Request

CANCELS = 200


def test_characters_that_are_split_over_chunks_come_out_whole(engine_at: MakeEngine) -> None:
    """One byte a chunk, and every way to end a line."""
    handle = engine_at("bytes").submit(ask("hello"))

    assert list(handle) == ["北京 😀"] * 3


def test_an_emoji_in_two_halves_is_joined_and_a_mark_of_half_a_character_left_out(engine_at: MakeEngine) -> None:
    assert "".join(engine_at("halves").submit(ask("hello"))) == "a 😀 b"


def test_everything_that_a_request_asks_for_is_passed_on(engine_at: MakeEngine, server: ModelServer) -> None:
    messages = (("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "How are you?"))
    stops = ("a1", "b2", "c3", "d4", "e5")
    request = Request(
        messages=messages, max_new_tokens=7, temperature=0.5, top_p=0.9, top_k=40, stop=stops, seed=11, adapter=None
    )

    engine_at("echo").submit(request).result()

    assert server.bodies() == [
        {
            "model": "smol",
            "messages": [{"role": role, "content": text} for role, text in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "stop": list(stops[:4]),
            "seed": 11,
        }
    ]


def test_what_has_its_default_is_not_sent(engine_at: MakeEngine, server: ModelServer) -> None:
    """Some servers refuse parameters that they do not know."""
    engine_at("echo").submit(ask("hello")).result()

    assert not {"top_p", "top_k", "stop", "seed"} & set(server.bodies()[0])


@pytest.mark.parametrize("stop", ["STOP", "wo ST"])
def test_a_stop_string_that_the_server_does_not_heed_never_shows(
    engine_at: MakeEngine, server: ModelServer, stop: str
) -> None:
    handle = engine_at("echo-20").submit(ask("one two STOP three four five six seven", stop=("1", "2", "3", "4", stop)))

    pieces = list(handle)

    assert "".join(pieces) == handle.result().text == "one two STOP".partition(stop)[0]
    assert handle.result().finish == "stop"
    until(lambda: server.left == 1)  # the server hears that nobody wants the rest


def test_the_beginning_of_a_stop_string_shows_when_none_follows(engine_at: MakeEngine) -> None:
    result = engine_at("echo").submit(ask("one two ST", stop=("STOP",))).result()

    assert result.text == "one two ST"


@pytest.mark.parametrize(("server_says", "finish"), [("length", "length"), ("filtered", "stop"), ("nousage", "stop")])
def test_reasons_of_the_end(engine_at: MakeEngine, server_says: str, finish: str) -> None:
    result = engine_at(server_says).submit(ask("hello")).result()

    assert (result.text, result.finish, result.new_tokens) == ("one two", finish, 2)


def test_the_usage_is_the_servers(engine_at: MakeEngine) -> None:
    result = engine_at("echo").submit(ask("one two three")).result()

    assert (result.prompt_tokens, result.new_tokens) == (3, 3)


def test_an_answer_without_its_last_event_is_complete_all_the_same(engine_at: MakeEngine) -> None:
    """Its reason has come; the usage after it is awaited for a moment only."""
    assert engine_at("nodone").submit(ask("hello")).result().text == "one two"


def test_what_goes_wrong_after_the_end_changes_nothing(engine_at: MakeEngine) -> None:
    assert engine_at("errorafter").submit(ask("hello")).result().text == "one"


def test_a_server_that_writes_without_end_is_stopped(engine_at: MakeEngine, server: ModelServer) -> None:
    result = engine_at("endless").submit(ask("hello", max_new_tokens=10)).result()

    assert result.finish == "length"
    assert len(result.text) < 10_000
    until(lambda: server.open == 0)


def test_thoughts_are_not_shown_but_are_a_sign_of_life(engine_at: MakeEngine) -> None:
    """A turn that hears nothing for a minute is given up; a model that thinks is not silent."""
    handle = engine_at("thinking").submit(ask("What is the capital of France?"))

    assert list(handle) == ["", "", "", "Paris"]
    assert handle.result().text == "Paris"
    assert handle.result().new_tokens == 4


def test_a_request_has_begun_when_its_first_token_is_there(engine_at: MakeEngine) -> None:
    """Before that it may wait in the server's own queue, which takes nothing from the turn's time."""
    waiting, running = engine_at("late").submit(ask("hello")), engine_at("stall").submit(ask("hello"))

    first_piece(running)

    assert (waiting.begun, running.begun) == (False, True)


def test_connections_are_used_again(engine_at: MakeEngine, server: ModelServer) -> None:
    engine = engine_at("echo")

    for _ in range(5):
        engine.submit(ask("hello")).result()

    assert server.connections == 1


def test_no_more_run_than_there_are_slots(engine_at: MakeEngine, server: ModelServer) -> None:
    engine = engine_at("stall", slots=3)

    handles = [engine.submit(ask("hello")) for _ in range(9)]
    until(lambda: len(server.bodies()) == 3)
    for handle in handles[:3]:
        handle.cancel()
    until(lambda: len(server.bodies()) == 6)

    assert server.open <= 6
    assert all(handle.result().finish == "cancelled" for handle in handles[:3])


def test_cancelled_requests_leave_no_connection_and_no_thread(engine_at: MakeEngine, server: ModelServer) -> None:
    """At every moment: while waiting, before the first token, in the middle of the answer."""
    engine = engine_at("echo-40", slots=12)
    assert engine.submit(ask("warm")).result().text == "warm"
    threads = engine_threads()

    for _ in range(CANCELS // 20):
        handles = [engine.submit(ask("one two three four five six seven eight " * 9)) for _ in range(20)]
        first_piece(handles[0])
        for handle in handles[::-1]:
            handle.cancel()
        assert {handle.result().finish for handle in handles} == {"cancelled"}

    until(lambda: not engine._running and not engine._waiting and not engine._timers)
    until(lambda: server.open <= 1)  # at most the first one's, kept for later
    assert engine_threads() == threads
    assert all(each.running == 0 for each in engine._servers)
    assert engine.submit(ask("still alive")).result().text == "still alive"


def test_a_stop_that_is_said_twice_closes_the_connection_too(engine_at: MakeEngine, server: ModelServer) -> None:
    """The second one must not interrupt the closing: a connection that nobody reads would be missing for ever."""
    engine = engine_at("echo-20")
    for number in range(1, 21):
        handle = engine.submit(ask("one two three four five six seven eight nine ten " * 20))
        first_piece(handle)

        handle.cancel()
        time.sleep(number * 5e-5)  # at another moment of the closing each time
        handle.cancel()

        assert handle.result().finish == "cancelled"
        until(lambda number=number: server.left == number)  # type: ignore[misc]


def test_a_stop_that_is_said_twice_before_the_answer_begins_closes_the_connection_too(
    engine_at: MakeEngine, server: ModelServer
) -> None:
    engine = engine_at("silent")
    for number in range(1, 21):
        handle = engine.submit(ask("hello"))
        until(lambda number=number: len(server.bodies()) == number)  # type: ignore[misc]

        handle.cancel()
        time.sleep(number * 5e-5)
        handle.cancel()

        assert handle.result().finish == "cancelled"
        until(lambda: server.open == 0)


def test_closing_ends_the_thread_and_every_connection(engine_at: MakeEngine, server: ModelServer) -> None:
    engine = engine_at("stall", slots=2)
    running, waiting = [engine.submit(ask("hello")) for _ in range(2)], engine.submit(ask("hello"))
    first_piece(running[0])

    engine.close()
    engine.close()

    for handle in (*running, waiting):
        with pytest.raises(EngineStopped):
            handle.result()
    until(lambda: server.open == 0)
    assert not engine._thread.is_alive()


def test_the_key_travels_in_the_header_and_nothing_else_of_ours(engine_at: MakeEngine, server: ModelServer) -> None:
    engine = engine_at("locked", api_key=KEY)

    assert engine.submit(ask("hello")).result().text == "hello"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_proxies_of_the_environment_are_not_used(engine_at: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are for the world outside, and would see every word."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert engine_at("echo").submit(ask("hello")).result().text == "hello"


def engine_threads() -> int:
    return sum(thread.name == "openai" or thread.name.startswith("asyncio") for thread in threading.enumerate())


def test_events_of_nothing_are_no_reason_to_fail(engine_at: MakeEngine) -> None:
    result = engine_at("pinging").submit(ask("hello")).result()

    assert (result.text, result.finish) == ("Paris", "stop")
