"""Stop requests: each is answered, and stops the message that ran when it came and no other."""

from app.message import Message
from tests.samples import a_message
from tests.workers.desk import House
from workers.control import run_control


def control(house: House, message: Message) -> None:
    run_control(message.conversation, box=house.boxes.control, desk=house.desk)


def test_a_stop_with_something_running_says_that_it_stops(house: House) -> None:
    running = house.gets(a_message())
    house.take(running)
    house.stop(stop := a_message(text="/stop"))

    control(house, stop)

    (reply,) = house.replies(stop)
    assert (reply.id, reply.text, reply.kind) == (stop.id, house.wording.say("stopping"), "notice")
    assert house.wakes.take() == ["send"]


def test_a_stop_with_nothing_running_says_so(house: House) -> None:
    """A message that waits is not stopped: it was not running."""
    house.gets(a_message())
    house.stop(stop := a_message(text="/stop"))

    control(house, stop)

    assert house.texts(stop) == [house.wording.say("nothing_to_stop")]
    assert len(house.items("inbox", stop)) == 1


def test_a_stop_is_answered_once(house: House) -> None:
    house.stop(stop := a_message(text="/stop"))

    control(house, stop)
    control(house, stop)

    assert len(house.replies(stop)) == 1


def test_two_stops_are_answered_one_after_the_other(house: House) -> None:
    house.stop(first := a_message(text="/stop", sent_at=1.0))
    house.stop(second := a_message(text="/stop", sent_at=2.0))

    control(house, first)
    woken = house.wakes.take()
    control(house, second)

    assert woken == ["send", "control"]
    assert [reply.id for reply in house.replies(first)] == [first.id, second.id]


def test_a_stop_does_not_wait_behind_the_inbox(house: House) -> None:
    """It would come too late there."""
    running, *_ = [house.gets(a_message()) for _ in range(5)]
    house.take(running)
    house.stop(stop := a_message(text="/stop"))

    control(house, stop)

    assert len(house.replies(stop)) == 1
    assert len(house.items("inbox", stop)) == 5


def test_a_stop_that_cannot_be_read_blocks_no_other(house: House) -> None:
    house.stop(broken := a_message(text="/stop", sent_at=1.0))
    house.rewrite_head(broken, "control", body="{}")
    house.stop(stop := a_message(text="/stop", sent_at=2.0))

    control(house, broken)
    control(house, stop)

    assert [reply.id for reply in house.replies(stop)] == [stop.id]


def test_a_leaving_process_takes_no_stop(house: House) -> None:
    house.stop(stop := a_message(text="/stop"))
    house.desk.draining.set()

    control(house, stop)

    assert house.replies(stop) == []
    assert len(house.items("control", stop)) == 1
