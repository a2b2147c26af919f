"""Which server takes the next request, and what a refusal means: policy without sockets; then a server killed under
load."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from app.errors import EngineStopped, EngineUnavailable, RequestRejected
from tests.workers.engine.asking import ask, until
from tests.workers.engine.openai.conftest import MakeEngine
from tests.workers.engine.openai.model_server import ModelServer
from workers.engine.interface import Handle
from workers.engine.openai.failures import Failure, Said, TooLong, Unknown, judge, read_error, reason, retry_after_s
from workers.engine.openai.servers import FAILURES, LONGEST_REST_S, Servers

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def three() -> Servers:
    return Servers(["http://a/v1", "http://b/v1/", "http://c/v1"])


def test_the_least_busy_goes_first_then_each_in_turn() -> None:
    servers = three()
    a, b, c = servers
    a.running = 1

    picked = [servers.pick(0.0) for _ in range(4)]

    assert picked == [b, c, b, c]


def test_another_one_goes_before_one_that_was_tried() -> None:
    servers = three()
    a, b, c = servers
    b.running, c.running = 9, 5

    assert servers.pick(0.0, [a]) is c
    assert servers.pick(0.0, [a, b, c]) is a


@pytest.mark.parametrize("blame", ["failed", "slow"])
def test_a_circuit_opens_after_some_failures_in_a_row(blame: str) -> None:
    server, *_ = three()
    failure = Failure(blame, "")  # type: ignore[arg-type]

    opened = [server.failed(failure, 0.0) for _ in range(FAILURES)]

    assert opened == [False] * (FAILURES - 1) + [True]
    assert not server.takes(0.5)


@pytest.mark.parametrize("blame", ["down", "setting"])
def test_a_circuit_opens_at_once_where_the_next_request_would_meet_the_same(blame: str) -> None:
    server, *_ = three()

    assert server.failed(Failure(blame, ""), 0.0)  # type: ignore[arg-type]


def test_a_server_that_has_rested_gets_one_request_at_a_time() -> None:
    """A server that is coming up must not meet the whole crowd."""
    server, *_ = three()
    server.failed(Failure("down", ""), 0.0)

    assert server.takes(1.0)
    with server.serving():
        assert not server.takes(1.0)
        server.succeeded()
        assert server.takes(1.0)


def test_it_rests_longer_each_time_up_to_a_limit() -> None:
    server, *_ = three()
    now, rests = 0.0, []
    for _ in range(9):
        server.failed(Failure("down", ""), now)
        rests.append(server.rests_until_s - now)
        now = server.rests_until_s

    assert rests[:4] == [1.0, 2.0, 4.0, 8.0]
    assert rests[-1] == LONGEST_REST_S


def test_of_many_that_fail_together_the_first_ones_count() -> None:
    """A crash under load breaks every answer at once; that is one failure, not sixteen."""
    server, *_ = three()

    for _ in range(16):
        server.failed(Failure("failed", ""), 0.0)

    assert server.rests_until_s == 1.0


def test_a_busy_server_is_left_alone_until_its_time_and_is_not_ill() -> None:
    servers = three()
    for server in servers:
        server.failed(Failure("busy", "", retry_after_s=7.0), 0.0)

    assert servers.pick(6.9) is None
    assert servers.ready_in_s(2.0) == 5.0
    assert servers.pick(7.0) is not None
    assert not any(server.suspect for server in servers)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 1.0),
        ("soon", 1.0),
        ("7", 7.0),
        ("2.5", 2.5),
        ("0", 0.1),
        ("99999", 60.0),
        ("Thu, 01 Jan 2026 12:00:09 GMT", 9.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.1),
        ("-3", 1.0),
        ("9" * 400, 60.0),
    ],
)
def test_retry_after_in_each_of_its_forms(header: str, seconds: float) -> None:
    assert retry_after_s(header, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("message", "limit_tokens", "prompt_tokens"),
    [
        (
            "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens (1588 in the "
            "messages, 512 in the completion). Please reduce the length of the messages or completion.",
            2048,
            1588,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 2048 "
            "tokens and your request has 1700 input tokens (512 > 2048 - 1700).",
            2048,
            1700,
        ),
        ("The input (3000 tokens) is longer than the model's context length (2048 tokens).", 2048, 3000),
        (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
            8192,
            9001,
        ),
        ("the request exceeds the available context size (4096 tokens), try increasing it", 4096, None),
        ("prompt is too long", None, None),
    ],
)
def test_a_context_that_is_too_small_is_understood_in_each_dialect(
    message: str, limit_tokens: int | None, prompt_tokens: int | None
) -> None:
    """Of vLLM, old and new, SGLang, OpenAI, llama.cpp."""
    found = judge(400, Said(message=message), retry_after="", texts=(), adapter=False)

    assert isinstance(found, TooLong)
    assert (found.limit_tokens, found.prompt_tokens) == (limit_tokens, prompt_tokens)


QUOTED = "please repeat: unknown max_tokens, maximum context length is 3 tokens"


@pytest.mark.parametrize("message", [f"cannot parse: {QUOTED}", f"{QUOTED} is refused"])
def test_who_is_quoted_by_a_server_teaches_nobody(message: str) -> None:
    """Else one person's words would shorten everybody's prompts until the engine starts anew."""
    found = judge(400, Said(message=message), retry_after="", texts=[QUOTED], adapter=False)

    assert isinstance(found, TooLong)
    assert (found.limit_tokens, found.prompt_tokens) == (None, None)


@pytest.mark.parametrize(
    ("message", "unknown"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported with this model.", True),
        ("[{'loc': ['body', 'stream_options'], 'msg': 'Extra inputs are not permitted'}]", True),
        ("max_tokens is too large: 99999. This model supports at most 16384 completion tokens.", False),
    ],
)
def test_a_parameter_is_unknown_only_where_the_server_says_so(message: str, unknown: bool) -> None:
    found = judge(400, Said(message=message), retry_after="", texts=["hello"], adapter=False)

    assert isinstance(found, Unknown if unknown else RequestRejected)


def test_a_message_of_any_length_is_read_at_once() -> None:
    """A pattern that goes back and forth over a long one would hold the whole process for minutes."""
    said = read_error({"error": {"message": "model " * 40_000}})

    assert len(said.message) == 2000
    assert not said.denies_the_model


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("bad input: my salary is low", "Hello, my salary is low. What now?"),
        ("bad input: hi", "hi"),
        ("bad input: 工资", "工资"),
        ("bad input: \\u5de5\\u8d44", "工资"),
        ("bad input: my\n   salary is", "my salary is"),
        ("x" * 500 + "hello you", "xxxxxxxx"),
    ],
)
def test_a_reason_that_quotes_somebody_is_replaced_by_its_code(message: str, text: str) -> None:
    assert reason(Said(message=message, code="400"), [text]) == "400"


def test_a_reason_that_quotes_nobody_is_shown() -> None:
    said = Said(message="Unexpected fields in the request: {'top_k'}", code="422")

    assert reason(said, ["What is the capital of France?"]) == said.message


@contextmanager
def server_process() -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A server that can be killed; its address without the behaviour."""
    command = [sys.executable, "-m", "tests.workers.engine.openai.model_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", process
        finally:
            process.kill()


def test_when_a_server_is_killed_the_other_answers_all_that_had_no_token(engine_at: MakeEngine) -> None:
    with server_process() as (first, doomed), server_process() as (second, _):
        engine = engine_at(urls=(f"{first}/late/v1", f"{second}/echo/v1"), slots=16)
        handles = [engine.submit(ask(f"question {number}")) for number in range(24)]
        until(lambda: next(iter(engine._servers)).running >= 6)

        doomed.kill()

        assert [handle.result().text for handle in handles] == [f"question {number}" for number in range(24)]


def test_a_server_killed_under_load_leaves_nobody_waiting_and_nobody_with_a_half(engine_at: MakeEngine) -> None:
    """Those that had a token end with an error, so that their turn is done again."""
    words = "one two three four five six"
    with server_process() as (first, doomed), server_process() as (second, _):
        engine = engine_at(urls=(f"{first}/echo-10/v1", f"{second}/echo-50/v1"), slots=16)
        handles = [engine.submit(ask(words)) for _ in range(48)]
        until(lambda: sum(handle.begun for handle in handles) > 12)

        doomed.kill()

        for handle in handles:
            outcome = outcome_of(handle)
            assert outcome == words or (outcome == "stopped" and handle.begun)
        assert engine.submit(ask("after")).result().text == "after"


def test_a_server_that_comes_back_is_used_again(engine_at: MakeEngine, server: ModelServer) -> None:
    """Nobody restarts the worker for it."""
    with server_process() as (address, process):
        engine = engine_at(urls=(f"{address}/echo/v1",))
        assert engine.submit(ask("before")).result().text == "before"
        process.kill()
        process.wait()
        port = int(address.rpartition(":")[2])
        until(lambda: outcome_of(engine.submit(ask("away"))) == "unavailable")

    with ModelServer(port) as again:
        threading.Thread(target=again.serve_forever, args=(0.02,), daemon=True).start()
        until(lambda: outcome_of(engine.submit(ask("back"))) == "back")
        again.shutdown()


def outcome_of(handle: Handle) -> str:
    """The text, or what became of it."""
    try:
        return handle.result().text
    except EngineStopped:
        return "stopped"
    except EngineUnavailable:
        return "unavailable"
