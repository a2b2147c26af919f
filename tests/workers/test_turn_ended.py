"""How turns end that do not end well: raised, vanished, lost, stopped, drained, hung. Each message gets one reply."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from app import keys
from app.context import recall
from app.message import Message, Said
from app.redis import Store
from skills.sdk import Context
from tests.app.supervised import eventually
from tests.samples import a_message
from tests.workers.desk import PATIENCE_S, Gate, House, a_house, a_skill, meanwhile
from workers.engine.echo import EchoEngine
from workers.engine.interface import Request
from workers.turn import Rules

WORDS = "one two three four five six seven eight nine ten eleven twelve"
SECRET = "the-persons-own-words"


@pytest.fixture
def quick(store: Store) -> Iterator[House]:
    """A house that renews its leases five times a second."""
    with a_house(store, lease_s=0.6) as house:
        yield house


def renewed_until(house: House, message: Message) -> None:
    """Wait for the next renewal of a lease."""
    place = keys.state("inbox", message.conversation)
    before = house.store.client.hget(place, "until")
    eventually(lambda: house.store.client.hget(place, "until") not in (before, None))


def raising(context: Context, message: Message) -> str:
    raise ValueError(f"cannot digest {message.text}")


def test_a_skill_that_raises_three_times_is_one_apology_and_one_dead_letter(house: House) -> None:
    """The record says where it broke; what was raised may quote the person, so that is kept out of record and log."""
    house.answers_with(a_skill(raising))
    message = house.gets(a_message(text=SECRET))

    with capture_logs() as logs:
        for _ in range(5):
            house.turn(message)
            house.hasten(message)

    assert house.texts(message) == [house.wording.say("apology_failed")]
    assert house.replies(message)[0].kind == "apology"
    (letter,) = house.dead_letters(message)
    assert (letter["id"], letter["reason"], letter["error"]) == (message.id, "it raised each time", "ValueError")
    assert "raising" in letter["where"]
    assert f"cannot digest {SECRET}" not in str(letter)
    assert SECRET not in str(logs)
    assert [after_s for _, _, after_s in house.wakes.later] == [1.0, 2.0]


def test_a_message_whose_worker_vanished_five_times_is_not_tried_again(house: House) -> None:
    ran: list[str] = []
    house.answers_with(a_skill(lambda _, message: ran.append(message.id) or "never"))  # type: ignore[func-returns-value]
    message, follower = house.gets(a_message()), house.gets(a_message(text="next"))
    for _ in range(5):
        house.vanish(message)

    house.turn(message)

    assert ran == []
    assert house.texts(message) == [house.wording.say("apology_failed")]
    assert [letter["reason"] for letter in house.dead_letters(message)] == ["its worker vanished each time"]
    assert house.head(message)["id"] == follower.id


def test_a_suspect_runs_alone_among_suspects_and_beside_the_innocent(house: House) -> None:
    """So a message that kills workers soon kills alone, and nobody waits for it."""
    gate = Gate()
    house.answers_with(a_skill(lambda context, message: gate(context, message) if message.text == "hold" else "quick"))
    held, other, innocent = (
        house.gets(a_message(text=text, sender=text)) for text in ("hold", "another suspect", "innocent")
    )
    for suspect in (held, other, held, other):
        house.vanish(suspect)

    with meanwhile(house.turn, held):
        assert gate.entered.wait(PATIENCE_S)
        house.turn(other)
        house.turn(innocent)
        postponed = (house.replies(other), house.head(other)["vanished"], house.texts(innocent))
        gate.opened.set()

    assert postponed == ([], 2, ["quick"])
    assert house.wakes.later == [("text", other.conversation, 0.5)]
    house.hasten(other)
    house.turn(other)
    assert house.texts(other) == ["quick"]


def test_those_whose_worker_was_killed_once_go_on_together(house: House) -> None:
    """A whole batch was in the killed process; hardly any of it is to blame, and none shall wait for the others."""
    gate = Gate()
    house.answers_with(a_skill(lambda context, message: gate(context, message) if message.text == "hold" else "quick"))
    held, other = (house.gets(a_message(text=text, sender=text)) for text in ("hold", "of the same batch"))
    house.vanish(held)
    house.vanish(other)

    with meanwhile(house.turn, held):
        assert gate.entered.wait(PATIENCE_S)
        house.turn(other)
        answered = house.texts(other)
        gate.opened.set()

    assert answered == ["quick"]


def test_an_engine_that_stops_makes_the_message_a_suspect(house: House) -> None:
    """Perhaps it stopped because of this very message."""
    engine = house.speaks_at(2.0)
    message = house.gets(a_message(text=WORDS))

    with meanwhile(house.turn, message):
        eventually(lambda: house.draft(message))
        engine.close()

    assert (house.head(message)["vanished"], house.head(message)["raised"]) == (1, 0)
    assert house.replies(message) == []
    assert house.wakes.later == [("text", message.conversation, 1.0)]
    house.desk.engine = EchoEngine(slots=1)
    house.hasten(message)
    house.turn(message)
    assert house.texts(message) == [WORDS]


def test_a_turn_that_lost_its_lease_writes_nothing(house: House) -> None:
    """It slept; another worker has the message now."""
    gate = Gate("too late")
    house.answers_with(a_skill(gate, remembers=True))
    message = house.gets(a_message())

    with meanwhile(house.turn, message):
        assert gate.entered.wait(PATIENCE_S)
        second = house.steal(message)
        gate.opened.set()

    assert house.replies(message) == []
    assert recall(house.store, message.conversation) == ()
    assert house.dead_letters(message) == []
    assert second.vanished == 1
    house.boxes.inbox.commit(second)


def test_a_turn_that_lost_its_lease_stops_writing(quick: House) -> None:
    """What it types would be mixed with the new holder's text, and its slot is wanted."""
    engine = quick.speaks_at(2.0)
    message = quick.gets(a_message(text=WORDS))

    with meanwhile(quick.turn, message) as turn:
        eventually(lambda: quick.draft(message))
        quick.steal(message)
        turn.result(PATIENCE_S)  # long before the last word

    assert quick.replies(message) == []
    others = [engine.submit(Request(messages=(("user", WORDS),), max_new_tokens=99)) for _ in range(engine.slots)]
    eventually(lambda: all(other.begun for other in others))  # every slot is free


def test_a_stopped_turn_commits_what_it_has(quick: House) -> None:
    """Still one reply; and the next turn knows what was said until then."""
    quick.speaks_at(2.0)
    message = quick.gets(a_message(text=WORDS))

    with meanwhile(quick.turn, message):
        eventually(lambda: b"one" in quick.draft(message).get(b"text", b""))
        quick.stop(a_message(text="/stop"))

    (reply,) = quick.replies(message)
    said, _, mark = reply.text.partition("\n\n")
    assert reply.stopped
    assert WORDS.startswith(said)
    assert 0 < len(said) < len(WORDS)
    assert mark == quick.wording.say("stopped_mark")
    assert recall(quick.store, message.conversation)[1].text == said


def test_a_turn_that_is_stopped_before_its_first_word_says_so(quick: House) -> None:
    quick.speaks_at(0.05)
    message = quick.gets(a_message(text=WORDS))

    with meanwhile(quick.turn, message):
        eventually(lambda: quick.draft(message))
        quick.stop(a_message(text="/stop"))

    (reply,) = quick.replies(message)
    assert (reply.text, reply.stopped) == (quick.wording.say("stopped"), True)


def test_a_drained_turn_is_handed_back_uncounted(house: House) -> None:
    """Nothing is wrong with the message: the process is leaving."""
    house.speaks_at(1.0)
    message = house.gets(a_message(text=WORDS))

    with meanwhile(house.turn, message):
        eventually(lambda: house.draft(message))
        house.leases.end_all("drained")

    assert (house.head(message)["vanished"], house.head(message)["raised"]) == (0, 0)
    assert house.replies(message) == []
    assert house.wakes.take()[-1] == "text"  # after those for its drafts
    house.restart()
    house.speaks_at(0.0)
    house.turn(message)
    assert house.texts(message) == [WORDS]


def test_a_turn_that_begins_while_the_process_leaves_touches_nothing(house: House) -> None:
    message = house.gets(a_message())
    house.desk.draining.set()

    house.turn(message)

    assert house.replies(message) == []
    assert house.take(message).vanished == 0


def test_a_turn_over_its_limit_is_given_up_and_not_renewed(quick: House) -> None:
    """Another worker takes the message; what the hung one says in the end is thrown away."""
    gate = Gate()
    quick.answers_with(a_skill(gate))
    quick.desk.rules = Rules(turn_limit_s=0.1)
    message = quick.gets(a_message())

    with meanwhile(quick.turn, message):
        eventually(lambda: quick.head(message)["vanished"])
        second = quick.take(message)
        gate.opened.set()

    assert quick.hung == 1
    assert quick.replies(message) == []
    quick.boxes.inbox.commit(second)


def test_a_message_that_hangs_three_times_is_a_dead_letter_that_says_where(quick: House) -> None:
    """It hangs by itself, so it has no two deaths in common with others; and nobody need search for the place."""
    quick.desk.rules = Rules(turn_limit_s=0.1)
    message = quick.gets(a_message(text=SECRET))
    for times in (1, 2, 3):
        gate = Gate()
        quick.answers_with(a_skill(gate))
        with meanwhile(quick.turn, message):
            eventually(lambda times=times: quick.head(message)["vanished"] == 2 + times)  # type: ignore[misc]
            gate.opened.set()

    quick.turn(message)

    assert quick.texts(message) == [quick.wording.say("apology_failed")]
    (letter,) = quick.dead_letters(message)
    assert letter["reason"] == "it hung, or its worker vanished"
    assert "self.opened.wait" in letter["where"]
    assert SECRET not in letter["where"]


def test_an_engine_that_falls_silent_hangs_the_turn(quick: House) -> None:
    quick.speaks_at(0.01)
    quick.desk.rules = Rules(silence_limit_s=0.1)
    message = quick.gets(a_message(text=WORDS))

    quick.turn(message)

    assert quick.hung == 1
    assert quick.replies(message) == []
    quick.expire(message)
    assert quick.take(message).vanished == 1  # as for its neighbours: the engine may be to blame


def test_a_skill_may_take_the_time_that_it_declares(quick: House) -> None:
    """Also in silence: only an engine has tokens to give."""
    gate = Gate()
    quick.answers_with(a_skill(gate, time_limit_s=PATIENCE_S))
    quick.desk.rules = Rules(turn_limit_s=0.1, silence_limit_s=0.1)
    message = quick.gets(a_message())

    with meanwhile(quick.turn, message):
        assert gate.entered.wait(PATIENCE_S)
        renewed_until(quick, message)
        renewed_until(quick, message)
        gate.opened.set()

    assert quick.hung == 0
    assert quick.texts(message) == ["at last"]


def test_a_long_answer_is_cut_before_the_turns_limit(house: House) -> None:
    """The limit is for what hangs; an answer that is being written is worth having."""
    house.speaks_at(4.0)
    house.desk.rules = Rules(turn_limit_s=1.0)
    message = house.gets(a_message(text=WORDS))

    house.turn(message)

    (text,) = house.texts(message)
    said, mark = text.split("\n\n")
    assert WORDS.startswith(said)
    assert len(said) < len(WORDS)
    assert mark == house.wording.say("cut_mark")


def test_a_skill_that_asks_the_engine_in_another_pool_is_broken(house: House) -> None:
    house.desk.engine = None
    message = house.gets(a_message())

    house.turn(message)

    assert house.head(message)["raised"] == 1


@pytest.mark.parametrize("stale", [False, True])
def test_a_stored_message_that_cannot_be_read_blocks_nobody(house: House, stale: bool) -> None:
    """The person cannot be told; the next message is answered all the same."""
    message, follower = house.gets(a_message()), house.gets(a_message(text="next"))
    house.rewrite_head(message, body="{}", since=1 if stale else house.head(message)["since"])

    house.turn(message)
    house.turn(follower)

    assert house.texts(message) == ["next"]
    assert [letter["id"] for letter in house.dead_letters(message)] == [message.id]


def test_a_turn_that_was_done_twice_doubles_nothing_in_the_context(house: House) -> None:
    """The context is saved by the commit that counts, and by no other."""
    gate = Gate("first try")
    house.answers_with(a_skill(gate, remembers=True))
    message = house.gets(a_message(text="question"))
    with meanwhile(house.turn, message):
        assert gate.entered.wait(PATIENCE_S)
        second = house.steal(message)
        gate.opened.set()

    house.boxes.inbox.release(second)
    house.turn(message)

    assert recall(house.store, message.conversation) == (Said("user", "question"), Said("assistant", "first try"))
    assert len(house.replies(message)) == 1
