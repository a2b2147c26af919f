"""What the built-in skills answer; each is run as a turn runs it."""

import pytest

from skills.sdk import Answer, Forward, Message
from tests.skills.standin import StandInContext, a_message
from workers.skills import load_skills

SKILLS = load_skills()


def answer(message: Message, context: StandInContext) -> Answer | Forward:
    skill = SKILLS.choose(message)
    assert skill is not None
    return SKILLS.run(skill, message, context)


def test_a_text_is_answered_by_the_engine() -> None:
    context = StandInContext(answer="Because of the rain.")

    assert answer(a_message("why?"), context) == Answer(text="Because of the rain.")


@pytest.mark.parametrize("text", ["", "  ", "\n\u3000"])
def test_an_empty_text_gets_a_sentence_and_never_reaches_the_engine(text: str) -> None:
    """A model that is asked nothing makes something up."""
    context = StandInContext(answer="made up")

    result = answer(a_message(text), context)

    assert result == Answer(text=context.wording("empty_text"), remember=False)
    assert context.asked == 0


def test_new_forgets_what_was_said() -> None:
    context = StandInContext()

    assert answer(a_message("/new"), context) == Answer(text=context.wording("new_done"), remember=False, forget=True)


def test_status_says_how_many_wait_and_for_how_long() -> None:
    result = answer(a_message("/status"), StandInContext(waiting=(3, 4.2)))

    assert result.text == "Messages waiting in all: 3. The oldest has waited 5 s."


def test_status_says_so_when_nobody_waits() -> None:
    assert answer(a_message("/status"), StandInContext()).text == "All is well, and nobody is waiting."


def test_help_lists_every_command_and_stop() -> None:
    """/stop is no skill, and people need it most when an answer runs on."""
    context = StandInContext(commands={"new": "forget", "help": "this list"})

    lines = answer(a_message("/help"), context).text.splitlines()

    assert lines[0] == context.wording("help_intro")
    assert lines[2:] == ["- /help: this list", "- /new: forget", "- /stop: stop the answer that is being written"]


@pytest.mark.parametrize(("locale", "words"), [("en", "do not know the command"), ("zh-CN", "没有 /wether 这个命令")])
def test_an_unknown_command_is_named_and_the_list_follows(locale: str, words: str) -> None:
    """A typing error should be seen at once."""
    context = StandInContext(locale=locale, commands={"help": "-"})

    text = answer(a_message("/wether tomorrow"), context).text

    assert words in text
    assert "/wether" in text
    assert "/stop" in text


def test_an_unknown_command_of_any_length_gets_a_short_answer() -> None:
    assert len(answer(a_message("/" + "a" * 100_000), StandInContext()).text) < 300


@pytest.mark.parametrize(("locale", "words"), [("en", "too long"), ("zh-CN", "太长")])
def test_a_text_that_is_too_long_is_called_so(locale: str, words: str) -> None:
    """A text is no unknown kind of message; the person can shorten it."""
    result = answer(a_message(kind="unsupported", platform_kind="text.too_long"), StandInContext(locale=locale))

    assert words in result.text


@pytest.mark.parametrize(
    ("platform_kind", "named"),
    [("audio", "voice messages"), ("video", "videos"), ("file", "files"), ("{odd}", "this kind of message")],
)
def test_what_cannot_be_read_is_named(platform_kind: str, named: str) -> None:
    """Silence looks like a fault; the person can send it in another form."""
    result = answer(a_message(kind="unsupported", platform_kind=platform_kind), StandInContext())

    assert result.text == f"Sorry, I cannot read {named} yet. Please send it as text or as a picture."
