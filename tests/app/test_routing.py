"""Where messages go, and how they get there: stored first, then woken."""

from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from app import keys
from app.acceptance import Limits, Outcome
from app.mailbox import Lease
from app.message import Kind
from app.redis import AsyncStore, Store
from app.routing import Dispatcher, command_of, route
from tests.conftest import Boxes
from tests.samples import a_message

Woken = list[tuple[str, str]]
MakeDispatcher = Callable[[Limits], Dispatcher]


@pytest.fixture
def woken() -> Woken:
    return []


@pytest.fixture
async def dispatchers(store: Store, valkey_url: str, woken: Woken) -> AsyncIterator[MakeDispatcher]:
    record = AsyncStore(valkey_url)

    def wake(queue: str, conversation: str, /) -> None:
        woken.append((queue, conversation))

    yield lambda limits: Dispatcher(record, limits, wake=wake, say=lambda key: f"<{key}>")
    await record.close()


@pytest.mark.parametrize(
    ("text", "command"),
    [("/new", "new"), ("/new please", "new"), ("/new\nplease", "new"), ("/a-b_1", "a-b_1"), ("/New", "new")]
    + [(text, "") for text in ("", "new", "/", "/ new", "/new!", " /new", "/etc/passwd", "/1", "/新", "//new")],
)
def test_a_command_is_a_slash_and_a_plain_word(text: str, command: str) -> None:
    assert command_of(text) == command


@pytest.mark.parametrize(
    ("kind", "text", "queue"),
    [
        ("text", "hello", "text"),
        ("text", "", "text"),
        ("text", "/help", "default"),
        ("text", "/nonsense", "default"),
        ("text", "/stop", "control"),
        ("text", "/stop it", "control"),
        ("text", "/stopping", "default"),
        ("text", "please /stop", "text"),
        ("picture", "", "image"),
        ("picture", "/stop", "image"),
        ("unsupported", "", "default"),
    ],
)
def test_each_message_has_its_queue(kind: Kind, text: str, queue: str) -> None:
    assert route(msgspec.structs.replace(a_message(text=text), kind=kind)) == queue


async def test_a_message_is_stored_and_its_queue_woken(dispatchers: MakeDispatcher, boxes: Boxes, woken: Woken) -> None:
    message = a_message()

    accepted = await dispatchers(Limits()).dispatch(message)

    assert accepted.outcome is Outcome.WAKE
    assert woken == [("text", message.conversation)]
    held = boxes.inbox.lease(message.conversation, "text")
    assert isinstance(held, Lease)
    assert held.message() == message


async def test_a_redelivery_is_stored_once_and_wakes_again(
    dispatchers: MakeDispatcher, boxes: Boxes, woken: Woken
) -> None:
    """It may be mending a crash between accept and wake."""
    dispatcher, message = dispatchers(Limits()), a_message()

    outcomes = [(await dispatcher.dispatch(message)).outcome for _ in range(3)]

    assert outcomes == [Outcome.WAKE, Outcome.REPEAT, Outcome.REPEAT]
    assert woken == [("text", message.conversation)] * 3
    assert boxes.inbox.waiting() == 1


async def test_a_message_behind_another_wakes_nobody(dispatchers: MakeDispatcher, woken: Woken) -> None:
    dispatcher = dispatchers(Limits())
    first = a_message()

    await dispatcher.dispatch(first)
    await dispatcher.dispatch(a_message())

    assert woken == [("text", first.conversation)]


async def test_a_stop_jumps_the_line(dispatchers: MakeDispatcher, boxes: Boxes, woken: Woken) -> None:
    dispatcher, message, stop = dispatchers(Limits()), a_message(), a_message(text="/stop")
    await dispatcher.dispatch(message)
    held = boxes.inbox.lease(message.conversation, "text")
    assert isinstance(held, Lease)

    await dispatcher.dispatch(stop)

    assert woken[1:] == [("control", stop.conversation)]
    assert boxes.inbox.renew([held]) == [(True, True)]
    assert (boxes.inbox.waiting(), boxes.control.waiting()) == (1, 1)


async def test_a_full_conversation_is_told_once(dispatchers: MakeDispatcher, boxes: Boxes, woken: Woken) -> None:
    dispatcher, messages = dispatchers(Limits(inbox_limit=2)), [a_message() for _ in range(4)]

    outcomes = [(await dispatcher.dispatch(message)).outcome.value for message in messages]

    assert outcomes == ["WAKE", "WAIT", "FULL", "FULL"]
    assert [queue for queue, _ in woken] == ["text", "send"]
    notice = boxes.outbox.lease(messages[0].conversation, "send")
    assert isinstance(notice, Lease)
    assert (notice.reply().text, notice.reply().kind, notice.id) == ("<full_conversation>", "notice", messages[2].id)


async def test_a_full_house_is_full_whatever_the_shard(dispatchers: MakeDispatcher, boxes: Boxes) -> None:
    """The limit is for all conversations together."""
    dispatcher = dispatchers(Limits(waiting_limit=5))
    messages = [a_message(sender=f"person {number}") for number in range(8)]
    assert len({keys.shard_of(message.conversation) for message in messages}) > 1

    outcomes = [(await dispatcher.dispatch(message)).outcome.value for message in messages]

    assert outcomes == ["WAKE"] * 5 + ["FULL"] * 3
    assert boxes.inbox.waiting() == 5
    notice = boxes.outbox.lease(messages[-1].conversation, "send")
    assert isinstance(notice, Lease)
    assert notice.reply().text == "<full_house>"


async def test_a_house_that_drains_takes_messages_again(dispatchers: MakeDispatcher, boxes: Boxes) -> None:
    dispatcher = dispatchers(Limits(waiting_limit=1))
    first = a_message(sender="first")
    await dispatcher.dispatch(first)
    refused = await dispatcher.dispatch(a_message(sender="second"))
    held = boxes.inbox.lease(first.conversation, "text")
    assert isinstance(held, Lease)
    boxes.inbox.commit(held)

    taken = await dispatcher.dispatch(a_message(sender="third"))

    assert (refused.outcome, taken.outcome) == (Outcome.FULL, Outcome.WAKE)


async def test_several_listeners_share_one_limit(dispatchers: MakeDispatcher, boxes: Boxes) -> None:
    """Each counts what the others stored."""
    first, second = (dispatchers(Limits(waiting_limit=4)) for _ in range(2))
    for number in range(4):
        await first.dispatch(a_message(sender=f"person {number}"))

    refused = await second.dispatch(a_message(sender="one too many"))

    assert refused.outcome is Outcome.FULL
    assert boxes.inbox.waiting() == 4
