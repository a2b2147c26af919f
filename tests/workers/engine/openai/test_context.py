"""Prompts are fitted by the server's own count, else by an estimate; a server's word that it was too much is heeded."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.errors import BadSetting, RequestRejected
from tests.workers.engine.asking import ask
from tests.workers.engine.openai.conftest import MakeEngine
from tests.workers.engine.openai.model_server import KEY, ModelServer
from workers.engine.interface import Request
from workers.engine.openai.context import LEAST_TOKENS
from workers.engine.openai.estimate import at_most, estimated

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

SYSTEM = ("system", "Be short.")
TURNS = tuple(("user" if n % 2 == 0 else "assistant", f"sentence {n} of a long talk") for n in range(41))


def words(messages: tuple[tuple[str, str], ...]) -> int:
    return sum(len(text.split()) for _, text in messages)


def test_what_fits_by_its_bytes_costs_no_question(engine_at: MakeEngine, server: ModelServer) -> None:
    messages = (SYSTEM, ("user", "北京"))

    assert engine_at("counting-2048").fit(messages, 16) == messages
    assert server.asked == []


def test_a_long_talk_is_trimmed_by_the_servers_own_count(engine_at: MakeEngine, server: ModelServer) -> None:
    fitted = engine_at("counting-100", max_tokens=2048).fit((SYSTEM, *TURNS * 6), 16)

    assert fitted[0] == SYSTEM
    assert fitted[-1] == TURNS[-1]
    assert (100 - 16) * 3 / 4 - 12 < words(fitted) <= 100 - 16  # a quarter goes at once, in whole questions
    assert len(server.bodies("/tokenize")) < 20


def test_a_server_that_cannot_count_is_asked_once(engine_at: MakeEngine, server: ModelServer) -> None:
    engine = engine_at("echo", max_tokens=300)

    fitted = [engine.fit((SYSTEM, *TURNS), 16) for _ in range(3)]

    assert 200 < estimated(fitted[0]) <= 284
    assert len(server.bodies("/tokenize")) == 1


def test_when_no_server_is_there_it_is_estimated(engine_at: MakeEngine) -> None:
    fitted = engine_at(urls=("http://127.0.0.1:9/v1",), max_tokens=300).fit((SYSTEM, *TURNS), 16)

    assert estimated(fitted) <= 284


def test_a_last_message_of_a_hundred_thousand_characters_is_cut(engine_at: MakeEngine, server: ModelServer) -> None:
    fitted = engine_at("counting-100").fit((("user", "word " * 20_000),), 16)

    assert words(fitted) <= 84
    assert len(server.bodies("/tokenize")) < 25


@pytest.mark.parametrize("behaviour", ["short-100", "mute-80"])
def test_a_prompt_that_is_too_long_for_the_server_is_shortened_once(
    engine_at: MakeEngine, server: ModelServer, behaviour: str
) -> None:
    """With and without the server's numbers."""
    engine = engine_at(behaviour, max_tokens=2048)
    request = Request(messages=(SYSTEM, *TURNS[:25]), max_new_tokens=16)

    assert engine.submit(request).result().finish == "stop"

    first, second = (body["messages"] for body in server.bodies())
    assert second[0] == {"role": "system", "content": "Be short."}
    assert second[-1] == first[-1]
    assert len(second) < len(first)


def test_a_limit_that_a_server_told_counts_from_then_on(engine_at: MakeEngine, server: ModelServer) -> None:
    engine = engine_at("short-100", max_tokens=2048)
    engine.submit(Request(messages=(SYSTEM, *TURNS[:25]), max_new_tokens=16)).result()

    fitted = engine.fit((SYSTEM, *TURNS[:25]), 16)
    engine.submit(Request(messages=fitted, max_new_tokens=16)).result()

    assert len(server.bodies()) == 3


def test_an_answer_that_does_not_fit_beside_its_prompt_is_limited(engine_at: MakeEngine, server: ModelServer) -> None:
    engine_at("short-60", max_tokens=2048).submit(ask("one two three", max_new_tokens=500)).result()

    assert [len(body["messages"]) for body in server.bodies()] == [1, 1]
    assert server.bodies()[-1]["max_tokens"] <= 57


@pytest.mark.parametrize("behaviour", ["mute-1", "status-413"])
def test_a_prompt_that_stays_too_long_is_refused(engine_at: MakeEngine, server: ModelServer, behaviour: str) -> None:
    with pytest.raises(RequestRejected, match="too long"):
        engine_at(behaviour).submit(Request(messages=(SYSTEM, *TURNS), max_new_tokens=16)).result()

    assert len(server.bodies()) == 2


@pytest.mark.parametrize(
    "text",
    [
        Path(__file__).read_text(),
        "The quick brown fox jumps over the lazy dog, and then it goes to sleep in the sun. " * 20,
        "1234567890 3.14159 " * 50,
        '{"a": [1, 2, {"b": "c"}], "x_y": null}' * 30,
        "北京是中国的首都，也是全国的政治、文化中心。请帮我写一份关于下周会议安排的通知，发给所有部门负责人。" * 5,
        "Съешь ещё этих мягких французских булок, да выпей чаю. " * 20,
    ],
    ids=["code", "English", "digits", "JSON", "Chinese", "Russian"],
)
def test_the_estimate_is_near_what_a_tokenizer_counts(loaded: "Loaded", text: str) -> None:
    """This one knows little but English: other models' need fewer tokens for the rest."""
    counted = len(loaded.prompts._tokenizer(text)["input_ids"])

    assert 0.9 * counted <= estimated((("user", text),)) <= 1.7 * counted
    assert counted <= at_most((("user", text),))


def test_looking_around_learns_the_models_limit(engine_at: MakeEngine) -> None:
    engine = engine_at("small", max_tokens=2048)

    engine.look_around()

    assert engine._context.limit_tokens == 64


@pytest.mark.parametrize(
    ("behaviour", "setting"), [("locked", "SWITCHYARD_OPENAI_API_KEY"), ("vllm", "SWITCHYARD_MODEL")]
)
def test_a_wrong_key_or_model_stops_the_start(engine_at: MakeEngine, behaviour: str, setting: str) -> None:
    engine = engine_at(behaviour, model="large", api_key="wrong")

    with pytest.raises(BadSetting, match=setting):
        engine.look_around()


@pytest.mark.parametrize("behaviour", ["echo", "locked"])
def test_a_right_key_and_model_do_not(engine_at: MakeEngine, behaviour: str) -> None:
    engine_at(behaviour, api_key=KEY).look_around()


def test_a_server_that_is_away_or_loads_models_when_asked_does_not_stop_the_start(engine_at: MakeEngine) -> None:
    engine_at(urls=("http://127.0.0.1:9/v1",)).look_around()
    engine_at("echo", model="large").look_around()


def test_a_limit_that_no_model_has_is_not_believed(engine_at: MakeEngine) -> None:
    """It would cut everybody's prompts to nothing."""
    context = engine_at("echo")._context

    for told in (-1, 0, 1, LEAST_TOKENS - 1, "64", None):
        context.learn(told)
    assert context.limit_tokens == 2048

    context.learn(LEAST_TOKENS)
    assert context.limit_tokens == LEAST_TOKENS
