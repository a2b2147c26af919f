"""One turn, rule by rule: a real record, the echo engine, whole skills; no Celery."""

import time
from typing import Any

import msgspec
import pytest

from app.context import recall
from app.errors import BadPicture, PlatformBusy
from app.message import Kind, Message, Said
from app.redis import Store
from skills.sdk import Answer, Forward
from tests.samples import a_message, a_picture
from tests.workers.desk import House, a_house, a_skill
from workers.engine.echo import EchoEngine
from workers.engine.interface import Handle, Request
from workers.turn import Rules


class ListeningEngine(EchoEngine):
    """An engine that keeps the prompts that it was given."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.heard: list[tuple[tuple[str, str], ...]] = []

    def submit(self, request: Request) -> Handle:
        self.heard.append(request.messages)
        return super().submit(request)


def of_kind(kind: Kind, platform_kind: str = "") -> Message:
    return msgspec.structs.replace(a_message(), kind=kind, text="", platform_kind=platform_kind)


def test_a_turn_answers_once_and_saves_its_context(house: House) -> None:
    """Wake-ups may be doubled; answers may not."""
    message = house.gets(a_message(text="hello"))

    house.turn(message)
    house.turn(message)

    assert [(reply.id, reply.text, reply.kind) for reply in house.replies(message)] == [(message.id, "hello", "answer")]
    assert recall(house.store, message.conversation) == (Said("user", "hello"), Said("assistant", "hello"))
    assert [queue for queue in house.wakes.take() if queue != "send"] == []


def test_the_next_turn_knows_what_was_said(house: House) -> None:
    """The model is told the system prompt, then what was said, then the question."""
    house.desk.engine = engine = ListeningEngine(slots=1)
    house.desk.rules = Rules(system_prompt="be kind")

    for text in ("my name is Ann", "who am I"):
        house.turn(house.gets(a_message(text=text)))

    assert engine.heard == [
        (("system", "be kind"), ("user", "my name is Ann")),
        (("system", "be kind"), ("user", "my name is Ann"), ("assistant", "my name is Ann"), ("user", "who am I")),
    ]


def test_a_skill_sees_what_was_said(house: House) -> None:
    message = house.gets(a_message(text="my name is Ann"))
    house.turn(message)
    house.answers_with(a_skill(lambda context, _: f"you said: {context.history[0].text}"))

    house.turn(house.gets(a_message(text="who am I")))

    assert house.texts(message)[1] == "you said: my name is Ann"


def test_new_forgets(house: House) -> None:
    message = house.gets(a_message(text="remember me"))
    house.turn(message)

    command = house.gets(a_message(text="/new"))
    house.turn(command, "default")

    assert house.texts(message)[1] == house.wording.say("new_done")
    assert recall(house.store, message.conversation) == ()


def test_a_command_leaves_the_context_alone(house: House) -> None:
    message = house.gets(a_message(text="hello"))
    house.turn(message)

    house.turn(house.gets(a_message(text="/help")), "default")

    assert len(recall(house.store, message.conversation)) == 2


def test_a_wake_up_for_another_queues_head_wakes_that_queue(house: House) -> None:
    message = house.gets(a_picture())

    house.turn(message, "text")

    assert house.wakes.take() == ["image"]
    assert house.replies(message) == []


def test_a_commit_wakes_the_sender_and_the_next_queue(house: House) -> None:
    first, _ = house.gets(a_message(text="/help")), house.gets(a_message())

    house.turn(first, "default")

    assert house.wakes.take() == ["send", "text"]


def test_stale_messages_get_one_apology_with_their_number(store: Store) -> None:
    """Nobody is answered from another day."""
    with a_house(store, stale_after_s=0.02) as house:
        messages = [house.gets(a_message()) for _ in range(3)]
        time.sleep(0.05)

        house.turn(messages[0])

        (reply,) = house.replies(messages[0])
        assert (reply.text, reply.kind) == (house.wording.say("apology_stale", count=3), "apology")
        assert reply.answers == tuple(message.id for message in messages)
        assert house.items("inbox", messages[0]) == []


def test_a_picture_with_a_question_is_forwarded_and_answered_once(house: House) -> None:
    read = a_skill(lambda _, __: Forward(queue="text", text="what is 12 + 30"), queue="image", kinds=("picture",))
    chat = a_skill(lambda context, message: f"about: {message.text}")
    house.answers_with(read, chat)
    message = house.gets(a_picture())

    house.turn(message, "image")
    woken = house.wakes.take()
    house.turn(message, "text")

    assert woken == ["text"]
    assert [(reply.id, reply.text) for reply in house.replies(message)] == [(message.id, "about: what is 12 + 30")]


def test_a_message_of_a_skill_of_another_queue_is_forwarded(house: House) -> None:
    """The queue is chosen by kind, the skill by the worker: an installed skill may live elsewhere."""
    house.answers_with(a_skill(lambda context, _: "from the text pool", commands=("mine",), kinds=()))
    message = house.gets(a_message(text="/mine"))

    house.turn(message, "default")
    woken = house.wakes.take()
    house.turn(message, "text")

    assert woken == ["text"]
    assert house.texts(message) == ["from the text pool"]


def test_two_skills_that_forward_to_each_other_end_in_one_apology(house: House) -> None:
    house.answers_with(a_skill(lambda _, message: Forward(queue="text", text=message.text)))
    message = house.gets(a_message())

    for _ in range(4):
        house.turn(message)

    assert house.texts(message) == [house.wording.say("apology_failed")]
    assert house.dead_letters(message)[0]["reason"] == "it was forwarded too often"


def test_an_empty_text_gets_a_question_back_and_is_not_remembered(house: House) -> None:
    message = house.gets(a_message(text="  \n"))

    house.turn(message)

    assert house.texts(message) == [house.wording.say("empty_text")]
    assert recall(house.store, message.conversation) == ()


@pytest.mark.parametrize(("word", "named"), [("audio", "kind_audio"), ("holo", "kind_other")])
def test_a_kind_that_nobody_reads_gets_an_honest_sentence(house: House, word: str, named: str) -> None:
    message = house.gets(of_kind("unsupported", word))

    house.turn(message, "default")

    assert house.texts(message) == [house.wording.say("unsupported", kind=house.wording.say(named))]


def test_a_kind_without_any_skill_is_answered_too(house: House) -> None:
    house.answers_with()
    message = house.gets(a_message())

    house.turn(message)

    assert house.texts(message) == [house.wording.say("unsupported", kind=house.wording.say("kind_other"))]


def test_a_picture_that_is_none_is_said_and_is_no_failure(house: House) -> None:
    def download(_: Any) -> bytes:
        raise BadPicture("not a picture")

    house.desk.download = download
    house.answers_with(
        a_skill(lambda context, m: str(context.read(m.attachments[0])), queue="image", kinds=("picture",))
    )
    message = house.gets(a_picture())

    house.turn(message, "image")

    assert house.texts(message) == [house.wording.say("bad_picture")]
    assert house.dead_letters(message) == []


def test_a_busy_platform_postpones_a_download_for_its_own_time(house: House) -> None:
    def download(_: Any) -> bytes:
        raise PlatformBusy("QpsLimit", retry_after_s=7.0)

    house.desk.download = download
    house.answers_with(
        a_skill(lambda context, m: str(context.read(m.attachments[0])), queue="image", kinds=("picture",))
    )
    message = house.gets(a_picture())

    for _ in range(5):
        house.turn(message, "image")
        house.hasten(message)

    assert (house.head(message)["raised"], house.head(message)["vanished"]) == (0, 0)
    assert house.wakes.later == [("image", message.conversation, 7.0)] * 5


def test_a_skill_decides_what_is_remembered(house: House) -> None:
    house.answers_with(a_skill(lambda *_: Answer(text="forty-two", remember=True)))
    message = house.gets(a_message(text="the answer?"))

    house.turn(message)

    assert recall(house.store, message.conversation) == (Said("user", "the answer?"), Said("assistant", "forty-two"))
