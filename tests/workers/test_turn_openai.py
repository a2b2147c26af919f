"""Turns whose model is at servers: what a server does to a turn, over real sockets and on a real record."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from app.redis import Store
from tests.app.supervised import eventually
from tests.samples import a_message
from tests.workers.desk import House, a_house, a_skill, meanwhile
from tests.workers.engine.openai.model_server import MODEL, ModelServer, model_server
from workers.engine.openai.client import Limits
from workers.engine.openai.engine import OpenAIEngine
from workers.turn import Rules

WORDS = "one two three four five six seven eight nine ten eleven twelve"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def house(store: Store) -> Iterator[House]:
    """It renews its leases five times a second."""
    with a_house(store, lease_s=0.6) as house:
        yield house


def ask_servers(house: House, *urls: str) -> None:
    """From now on the house's model is there."""
    if house.desk.engine is not None:
        house.desk.engine.close()
    house.desk.engine = OpenAIEngine(urls, model=MODEL, slots=4, max_tokens=2048, limits=Limits(first_token_s=3.0))


def test_a_turn_is_answered_by_a_server(house: House, server: ModelServer) -> None:
    ask_servers(house, server.url("echo"))
    message = house.gets(a_message(text=WORDS))

    house.turn(message)

    assert house.texts(message) == [WORDS]
    assert [said["role"] for said in server.bodies()[0]["messages"]] == ["system", "user"]


def test_a_skill_chooses_the_adapter_that_it_asks_with(house: House, server: ModelServer) -> None:
    ask_servers(house, server.url("echo"))
    house.answers_with(a_skill(lambda context, _: context.ask(adapter="french")))
    message = house.gets(a_message(text="bonjour"))

    house.turn(message)

    assert house.texts(message) == ["bonjour"]
    assert server.bodies()[-1]["model"] == "french"


def test_a_busy_server_postpones_the_turn_as_long_as_it_asks_and_blames_nobody(
    house: House, server: ModelServer
) -> None:
    ask_servers(house, server.url("status-429-7"))
    message = house.gets(a_message(text=WORDS))

    house.turn(message)

    assert (house.head(message)["vanished"], house.head(message)["raised"]) == (0, 0)
    ((_, _, after_s),) = house.wakes.later
    assert 5 < after_s <= 7
    assert house.replies(message) == []


def test_a_key_that_is_refused_loses_no_message(house: House, server: ModelServer) -> None:
    """Whoever mends it within the quarter of an hour has lost nothing."""
    ask_servers(house, server.url("status-401"))
    message = house.gets(a_message(text=WORDS))
    for _ in range(4):
        house.turn(message)
        house.hasten(message)

    ask_servers(house, server.url("echo"))
    house.turn(message)

    assert house.texts(message) == [WORDS]
    assert house.dead_letters(message) == []


def test_an_answer_that_breaks_off_is_written_again_from_its_beginning(house: House, server: ModelServer) -> None:
    """What was typed so far is replaced, not lengthened."""
    ask_servers(house, server.url("reset"))
    message = house.gets(a_message(text=WORDS))
    house.turn(message)
    assert (house.head(message)["vanished"], house.replies(message)) == (1, [])

    ask_servers(house, server.url("echo"))
    house.hasten(message)
    house.turn(message)

    assert house.texts(message) == [WORDS]


def test_a_stop_closes_the_connection_and_keeps_what_is_there(house: House, server: ModelServer) -> None:
    ask_servers(house, server.url("echo-2"))
    message = house.gets(a_message(text=WORDS))

    with meanwhile(house.turn, message):
        eventually(lambda: b"one" in house.draft(message).get(b"text", b""))
        house.stop(a_message(text="/stop"))

    assert house.texts(message)[0].startswith("one")
    assert "twelve" not in house.texts(message)[0]
    eventually(lambda: server.left == 1)


def test_waiting_for_a_server_is_no_silence_of_the_turn(house: House, server: ModelServer) -> None:
    """A hung turn costs its whole process; a server's own queue must not."""
    ask_servers(house, server.url("silent"), server.url("echo"))
    house.desk.rules = Rules(silence_limit_s=1.0, turn_limit_s=1.5)
    message = house.gets(a_message(text=WORDS))

    house.turn(message)

    assert (house.hung, house.texts(message)) == (0, [WORDS])


def test_a_model_that_thinks_is_not_silent_and_shows_no_empty_text(house: House, server: ModelServer) -> None:
    """Its thoughts are nobody's business, but a turn that hears of them does not hang."""
    ask_servers(house, server.url("pondering"))
    house.desk.rules = Rules(silence_limit_s=1.0)
    message = house.gets(a_message(text=WORDS))

    with meanwhile(house.turn, message):
        eventually(lambda: server.thoughts > 15)
        typed = house.draft(message)[b"text"].decode()
        house.stop(a_message(text="/stop"))

    assert (house.hung, typed) == (0, house.wording.say("thinking"))
    assert house.texts(message)[0].startswith(house.wording.say("stopped"))


def test_what_no_server_will_run_is_apologised_for(house: House, server: ModelServer) -> None:
    ask_servers(house, server.url("reject"))
    message = house.gets(a_message(text=WORDS))

    with capture_logs() as logs:
        house.turn(message)

    assert house.texts(message) == [house.wording.say("apology_failed")]
    assert WORDS not in str(logs)
