"""The commands on dead letters, on a house where some have died: what is shown, and what a replay brings."""

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from app import keys
from app.dead_letters import commands
from app.errors import BadSetting, NoSuchLetter, NotReplayed, PlatformRefused, StoreUnavailable
from app.letters import Kept, Letters, message_of
from app.message import Message
from app.redis import Store
from skills.sdk import Context
from tests.app.proxy import proxied
from tests.samples import a_message, a_picture
from tests.workers.desk import House, a_skill
from tests.workers.recording_outlet import DIES_AFTER
from workers.skills import load_skills

SECRET = "the person's own words, and many more of them than are quoted"
ODD_ID = "dingtalk:bot:it's$(odd) #1"

Run = Callable[..., str]


@pytest.fixture
def run(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command to its end; what it printed. Raises what it ended with."""
    monkeypatch.setenv("SWITCHYARD_REDIS_URL", valkey_url)
    monkeypatch.setenv("SWITCHYARD_LOCALE", "en")

    def run(*words: str, says: str = "") -> str:
        result = CliRunner().invoke(commands, words, input=says)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


def failing(context: Context, message: Message) -> str:
    raise ValueError(f"cannot digest {message.text}")


def died(house: House, message: Message) -> Message:
    """Its skill raised three times, and the apology went out."""
    house.answers_with(a_skill(failing, kinds=("text", "picture")))
    for _ in range(3):
        house.turn(message)
        house.hasten(message)
    house.deliver_all(message)
    house.desk.skills = load_skills()
    return message


def died_as_reply(house: House, message: Message, text: str) -> Message:
    """The platform refused the reply in every way, three times."""
    for call in ("open", "webhook", "proactive"):
        house.outlet.fails(call, *[PlatformRefused("robot.gone")] * 3)
    house.owes(message, text)
    house.deliver_all(message)
    return message


def the_letter(house: House) -> Kept:
    (kept,) = Letters(house.store).all()
    return kept


def answered(house: House, message: Message) -> list[str]:
    """Work everything off; all that people saw."""
    house.turn(message)
    house.deliver_all(message)
    return house.outlet.texts()


def test_an_empty_list_says_so(run: Run, house: House) -> None:
    assert run("list") == "no dead letters\n"
    assert json.loads(run("list", "--json")) == []


def test_the_list_names_what_died_and_why_and_holds_no_words_of_people(run: Run, house: House) -> None:
    message = died(house, house.gets(a_message(text=SECRET)))
    died_as_reply(house, a_message(sender="other"), SECRET)

    table = run("list")
    first, second = json.loads(run("list", "--json"))

    assert [line.split()[2:] for line in table.splitlines()[1:]] == [
        ["inbox", "it", "raised", "each", "time", "ValueError", message.id],
        ["outbox", "the", "platform", "refused", "it", "in", "every", "way", "robot.gone", second["message_id"]],
    ]
    assert (first["box"], first["reason"], first["error"]) == ("inbox", "it raised each time", "ValueError")
    assert "own words" not in table + str(first) + str(second)


def test_show_names_the_place_and_the_words_only_when_asked(run: Run, house: House) -> None:
    message = died(house, house.gets(a_message(text=SECRET)))
    name = the_letter(house).name

    plain, whole = run("show", name), run("show", message.id, "--text")

    assert "in failing" in plain
    assert "own words" not in plain
    assert f"text:\n{SECRET}" in whole
    assert json.loads(run("show", name[:6], "--json", "--text"))["text"] == SECRET


def test_what_the_list_shows_can_be_pasted_in_a_shell(run: Run, house: House) -> None:
    """Ids come from the platform; nobody promises what is in them."""
    died(house, house.gets(a_message(ODD_ID)))
    row = run("list").splitlines()[1]

    name, pasted = row.split()[0], shlex.split(row)[-1]

    assert pasted == ODD_ID
    assert name == shlex.quote(name)
    assert run("show", pasted) == run("show", name)


def test_a_replay_is_answered_once_and_says_what_it_answers(run: Run, house: House) -> None:
    """The person forgot the question meanwhile, and has seen an apology for it."""
    message = died(house, house.gets(a_message(text="  What is\n the answer?")))

    said = run("replay", the_letter(house).name)

    new_id = f"{message.id}#replay1"
    assert new_id in said
    assert house.head(message)["id"] == new_id
    assert Letters(house.store).all() == []
    sorry, late = answered(house, message)
    assert sorry == house.wording.say("apology_failed")
    assert late.startswith("Late answer to “What is the answer?”:\n\n")
    assert house.items("inbox", message) == []


def test_a_late_answer_quotes_the_first_words_alone(house: House, run: Run) -> None:
    message = died(house, house.gets(a_message(text=SECRET)))

    run("replay", message.id)
    late = answered(house, message)[-1]

    assert late.splitlines()[0] == "Late answer to “the person's own words, and many more of…”:"


def test_a_late_answer_to_a_picture_has_no_words_to_quote(house: House, run: Run) -> None:
    message = died(house, house.gets(a_picture(), "text"))
    run("replay", message.id)
    house.answers_with(a_skill(lambda *_: "a cat", kinds=("picture",), queue="image"))

    house.turn(message, "image")

    assert house.texts(message) == ["This answer comes late:\n\na cat"]


def test_a_replay_that_dies_has_the_next_number(house: House, run: Run) -> None:
    message = died(house, house.gets(a_message()))
    run("replay", message.id)
    died(house, message)

    said = run("replay", f"{message.id}#replay1")

    assert f"{message.id}#replay2" in said
    assert len(answered(house, message)) == 3


def test_a_replay_keeps_its_place_behind_what_waits(house: House, run: Run) -> None:
    message = died(house, house.gets(a_message(text="old")))
    newer = house.gets(a_message(text="newer"))

    run("replay", message.id)

    assert [item["id"] for item in house.items("inbox", message)] == [newer.id, f"{message.id}#replay1"]


def test_a_replay_is_due_at_once(house: House, run: Run) -> None:
    """The command wakes nobody: the sweeper does, whatever else its queue holds."""
    message = died(house, house.gets(a_message()))
    shard = keys.shard_of(message.conversation)

    run("replay", message.id)

    due = [conversation for _, conversation in house.boxes.inbox.overdue(shard, 10)]
    assert house.boxes.inbox.sweep(shard, due, filled=["text"]) == [("text", message.conversation)]


def test_a_dead_reply_is_sent_again_under_an_id_of_its_own(house: House, run: Run) -> None:
    """The platform knows the first key: with the same one it might show nothing."""
    message = died_as_reply(house, a_message(), "the answer")

    said = run("replay", message.id)
    house.deliver_all(message)

    assert "may have been seen" in said
    assert house.outlet.texts() == ["This answer comes late:\n\nthe answer"]
    assert Letters(house.store).all() == []


def test_message_and_reply_of_one_id_never_share_a_replays_id(house: House, run: Run) -> None:
    """They would share a card, and one of them would not be shown."""
    for call in ("open", "webhook", "proactive"):
        house.outlet.fails(call, *[PlatformRefused("robot.gone")] * 3)
    message = died(house, house.gets(a_message(text="question")))  # the apology was refused as well
    names = [kept.name for kept in Letters(house.store).all()]

    with pytest.raises(NoSuchLetter, match=names[1]):
        run("replay", message.id)
    said = run("replay", *names)

    assert "#replay1" in said
    assert "#replay2" in said
    assert len(answered(house, message)) == 2


def test_a_replayed_reply_that_its_sender_does_not_survive_comes_once(house: House, run: Run) -> None:
    message = died_as_reply(house, a_message(), "the answer")
    house.outlet.fails("finish", DIES_AFTER)

    run("replay", message.id)
    house.deliver_all(message)

    assert len(house.outlet.texts()) == 1


def test_a_replay_whose_answer_is_lost_is_neither_lost_nor_doubled(house: House, valkey_url: str) -> None:
    """The call is made again, and hears the same."""
    message = died(house, house.gets(a_message(text="question")))
    kept = the_letter(house)

    with proxied(valkey_url) as proxy:
        letters = Letters(Store(proxy.url, deadline_s=10.0))
        proxy.cut_next()
        new_id = letters.put_back(kept, message_of(kept), "text")
        letters.store.close()

    assert (proxy.cuts, new_id) == (1, f"{message.id}#replay1")
    assert Letters(house.store).all() == []
    assert len(house.items("inbox", message)) == house.boxes.inbox.waiting() == 1


def test_of_two_operators_one_replays(house: House) -> None:
    message = died(house, house.gets(a_message()))
    letters, kept = Letters(house.store), the_letter(house)
    letters.drop(kept)

    with pytest.raises(NoSuchLetter, match="meanwhile"):
        letters.put_back(kept, message_of(kept), "text")

    assert house.items("inbox", message) == []


def test_a_full_conversation_keeps_its_dead_letter(house: House, run: Run) -> None:
    message = died(house, house.gets(a_message()))
    for _ in range(20):
        house.gets(a_message())

    with pytest.raises(NotReplayed, match="full"):
        run("replay", message.id)

    assert the_letter(house).letter.id == message.id


def test_a_full_house_keeps_its_dead_letters(house: House, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    message = died(house, house.gets(a_message()))
    house.gets(a_message(sender="somebody else"))
    monkeypatch.setenv("SWITCHYARD_WAITING_LIMIT", "1")

    with pytest.raises(NotReplayed, match="SWITCHYARD_WAITING_LIMIT"):
        run("replay", message.id)

    assert the_letter(house).letter.id == message.id


def test_what_cannot_be_read_can_be_seen_and_dropped_and_not_replayed(house: House, run: Run) -> None:
    message = house.gets(a_message())
    house.rewrite_head(message, body="{}")
    house.turn(message)
    house.store.client.zadd(keys.dead(3), {b'{"v":9}': 1.0})
    strange, unreadable = Letters(house.store).all()

    for name in (strange.name, unreadable.name):
        with pytest.raises(NotReplayed, match="cannot be read"):
            run("replay", name)
        run("drop", name)

    assert run("list") == "no dead letters\n"


def test_drop_forgets_what_is_named_and_asks_before_it_forgets_all(house: House, run: Run) -> None:
    first, *_ = [died(house, house.gets(a_message(sender=name))) for name in ("a", "b", "c")]

    assert "1 dropped" in run("drop", first.id)
    with pytest.raises(AssertionError, match="Forget all 2"):
        run("drop", "--all", says="n\n")
    left = len(Letters(house.store).all())
    assert "2 dropped" in run("drop", "--all", "--yes")

    assert left == 2
    assert Letters(house.store).all() == []


@pytest.mark.parametrize("words", [("show", "nobody"), ("replay", "nobody"), ("drop", "ab")])
def test_an_unknown_id_is_a_clear_error(house: House, run: Run, words: tuple[str, ...]) -> None:
    died(house, house.gets(a_message()))

    with pytest.raises(NoSuchLetter, match=f"{words[1]}: no dead letter"):
        run(*words)


@pytest.mark.parametrize("words", [("replay",), ("drop",), ("drop", "x", "--all")])
def test_a_command_that_names_nothing_does_nothing(house: House, run: Run, words: tuple[str, ...]) -> None:
    with pytest.raises(BadSetting, match="name"):
        run(*words)


def test_a_record_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("SWITCHYARD_REDIS_URL", "redis://127.0.0.1:1/0")

    with pytest.raises(StoreUnavailable, match="switchyard up"):
        run("list")


def test_without_a_record_the_mend_is_named(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Any) -> None:
    monkeypatch.setenv("SWITCHYARD_REDIS_URL", "")
    monkeypatch.setenv("SWITCHYARD_DATA_DIR", str(tmp_path))

    with pytest.raises(BadSetting, match="SWITCHYARD_DATA_DIR"):
        run("list")
