"""The mailbox, rule by rule, on a real Valkey."""

import time

import pytest

from app import keys
from app.acceptance import Accepted, Limits, Outcome
from app.errors import LeaseLost
from app.mailbox import DraftLease, Elsewhere, Idle, Lease, Mailbox, Remember
from app.message import Message
from app.redis import Store
from tests.conftest import Boxes
from tests.samples import a_message, a_reply, notices


def accepted(inbox: Mailbox, message: Message, queue: str = "text") -> Accepted:
    return inbox.accept(message, queue, notices=notices(message))


def leased(inbox: Mailbox, message: Message, queue: str = "text") -> Lease:
    held = inbox.lease(message.conversation, queue)
    assert isinstance(held, Lease)
    return held


def short(store: Store, **limits: float | int) -> Mailbox:
    return Mailbox(store, "inbox", Limits(**{"lease_s": 0.05, **limits}))  # type: ignore[arg-type]


def wait_for(condition: object, deadline_s: float = 5.0) -> object:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if result := condition():  # type: ignore[operator]
            return result
        time.sleep(0.01)
    raise AssertionError("the condition did not come true")


def test_a_redelivered_message_is_answered_once(inbox: Mailbox) -> None:
    """Platforms redeliver when our ack is late; nobody may be answered twice."""
    message = a_message()

    first, again = accepted(inbox, message), accepted(inbox, message)

    assert (first.outcome, again.outcome) == (Outcome.WAKE, Outcome.REPEAT)
    assert again.wake == "text"  # it may be mending a crash between accept and wake
    assert inbox.waiting() == 1


def test_a_message_is_remembered_after_its_answer(inbox: Mailbox) -> None:
    """A redelivery may come long after the answer."""
    message = a_message()
    accepted(inbox, message)
    inbox.commit(leased(inbox, message))

    again = accepted(inbox, message)

    assert again.outcome is Outcome.REPEAT
    assert inbox.lease(message.conversation, "text") is Idle.EMPTY


def test_messages_are_served_by_time_of_sending(inbox: Mailbox) -> None:
    """Two sockets may bring them the other way round."""
    late, early = a_message(sent_at=200.0), a_message(sent_at=100.0)
    accepted(inbox, late)

    arrival = accepted(inbox, early)

    assert arrival == Accepted(Outcome.WAKE, "text")
    assert leased(inbox, late).id == early.id


def test_an_earlier_message_never_pushes_out_a_running_one(inbox: Mailbox) -> None:
    """It is served next: the running turn already belongs to somebody."""
    late, early = a_message(sent_at=200.0), a_message(sent_at=100.0)
    accepted(inbox, late)
    running = leased(inbox, late)

    arrival = accepted(inbox, early)
    done = inbox.commit(running)

    assert arrival.outcome is Outcome.WAIT
    assert done.next_queue == "text"
    assert leased(inbox, early).id == early.id


def test_one_conversation_has_one_holder(inbox: Mailbox) -> None:
    message = a_message()
    accepted(inbox, message)

    leased(inbox, message)

    assert inbox.lease(message.conversation, "text") is Idle.BUSY


def test_a_head_belongs_to_its_queue(inbox: Mailbox) -> None:
    message = a_message()
    accepted(inbox, message, "image")

    assert inbox.lease(message.conversation, "text") == Elsewhere("image")


def test_a_lost_lease_cannot_commit(store: Store) -> None:
    """A worker that slept past its lease must not answer: somebody else does."""
    inbox = short(store)
    message = a_message()
    accepted(inbox, message)
    slept = leased(inbox, message)
    second = wait_for(lambda: isinstance(held := inbox.lease(message.conversation, "text"), Lease) and held)
    assert isinstance(second, Lease)

    with pytest.raises(LeaseLost):
        inbox.commit(slept, reply=a_reply(message, "too late"))

    assert (second.vanished, second.suspect) == (1, False)
    assert store.client.exists(keys.items("outbox", message.conversation)) == 0


def test_an_expired_lease_that_nobody_took_is_still_good(store: Store) -> None:
    """A pause of the whole machine costs no work."""
    inbox = short(store)
    message = a_message()
    accepted(inbox, message)
    held = leased(inbox, message)
    wait_for(lambda: inbox.overdue(keys.shard_of(message.conversation), 10))

    assert inbox.renew([held]) == [(True, False)]
    assert inbox.commit(held).next_queue == ""


def test_every_settlement_can_be_repeated(boxes: Boxes) -> None:
    """The answer of a script may be lost on its way back."""
    message = a_message()
    accepted(boxes.inbox, message)
    held = leased(boxes.inbox, message)

    first = boxes.inbox.commit(held, reply=a_reply(message))
    again = boxes.inbox.commit(held, reply=a_reply(message))

    assert first == again
    assert boxes.outbox.waiting() == 1


def test_a_commit_saves_the_context_and_wakes_the_sender(boxes: Boxes, store: Store) -> None:
    message, follower = a_message(), a_message()
    accepted(boxes.inbox, message)
    accepted(boxes.inbox, follower, "image")

    done = boxes.inbox.commit(
        leased(boxes.inbox, message), reply=a_reply(message), remember=Remember(what="save", context=b"[]")
    )

    assert (done.next_queue, done.send) == ("image", "send")
    assert store.client.get(keys.context(message.conversation)) == b"[]"
    assert 0 < store.client.pttl(keys.context(message.conversation)) <= 1_800_000
    assert leased(boxes.outbox, message, "send").reply().text == "hi"


def test_forwarding_keeps_the_place_and_the_id(inbox: Mailbox) -> None:
    """One message, one reply, whatever the number of stops."""
    message, follower = a_message(text="a picture"), a_message()
    accepted(inbox, message, "image")
    accepted(inbox, follower)
    held = leased(inbox, message, "image")

    queue = inbox.forward(held, a_message(message.id, text="what the picture says"), "text")

    assert queue == "text"
    again = leased(inbox, message)
    assert (again.id, again.forwards, again.message().text) == (message.id, 1, "what the picture says")


def test_a_message_is_forwarded_three_times_at_most(inbox: Mailbox) -> None:
    """Two skills that hand a message to each other must not play for ever."""
    message = a_message()
    accepted(inbox, message)
    for _ in range(3):
        assert inbox.forward(leased(inbox, message), message, "text") == "text"

    assert inbox.forward(leased(inbox, message), message, "text") is None


def test_a_released_message_waits_for_its_time(inbox: Mailbox) -> None:
    """A wake-up that comes too early must not break the back-off."""
    message = a_message()
    accepted(inbox, message)

    assert inbox.release(leased(inbox, message), after_s=0.2, counts="raised") == ""

    assert inbox.lease(message.conversation, "text") is Idle.BUSY
    held = wait_for(lambda: isinstance(held := inbox.lease(message.conversation, "text"), Lease) and held)
    assert isinstance(held, Lease)
    assert (held.raised, held.vanished) == (1, 0)


def test_a_drained_message_is_free_at_once_and_innocent(inbox: Mailbox) -> None:
    message = a_message()
    accepted(inbox, message)

    assert inbox.release(leased(inbox, message)) == "text"

    held = leased(inbox, message)
    assert (held.raised, held.vanished) == (0, 0)


def test_a_full_conversation_says_so_once(store: Store, outbox: Mailbox) -> None:
    """Twenty refused messages are no reason for twenty notices."""
    inbox = Mailbox(store, "inbox", Limits(inbox_limit=2))
    messages = [a_message() for _ in range(5)]

    outcomes = [accepted(inbox, message) for message in messages]

    assert [outcome.outcome.value for outcome in outcomes] == ["WAKE", "WAIT", "FULL", "FULL", "FULL"]
    assert [outcome.wake for outcome in outcomes[2:]] == ["send", "", ""]
    assert leased(outbox, messages[0], "send").reply().text == "this conversation is full"
    assert accepted(inbox, messages[2]).outcome is Outcome.REPEAT


def test_a_full_house_says_so(store: Store, outbox: Mailbox) -> None:
    inbox = Mailbox(store, "inbox", Limits())
    message = a_message()

    refused = inbox.accept(message, "text", notices=notices(message), room=0)

    assert refused == Accepted(Outcome.FULL, "send")
    assert leased(outbox, message, "send").reply().text == "the house is full"
    assert inbox.waiting() == 0


def test_stale_messages_are_closed_together(store: Store, outbox: Mailbox) -> None:
    """After a long outage one apology says how many; nobody is answered from another day."""
    inbox = Mailbox(store, "inbox", Limits(stale_after_s=0.02))
    messages = [a_message() for _ in range(3)]
    for message in messages:
        accepted(inbox, message)
    time.sleep(0.05)

    held = leased(inbox, messages[0])
    inbox.commit(held, reply=a_reply(messages[0], "sorry for 3"), closes=held.stale)

    assert held.stale == tuple(message.id for message in messages)
    assert (inbox.waiting(), outbox.waiting()) == (0, 1)


def test_a_dead_letter_is_kept_with_its_reason(inbox: Mailbox, store: Store) -> None:
    message = a_message()
    accepted(inbox, message)

    inbox.commit(leased(inbox, message), reply=a_reply(message, "sorry"), dead_letter=b'{"reason":"raised"}')

    kept = store.client.zrange(keys.dead(keys.shard_of(message.conversation)), 0, -1)
    assert kept == [b'{"reason":"raised"}']


def test_a_stop_ends_the_message_that_ran_when_it_came(boxes: Boxes) -> None:
    """It can stop that one and no other."""
    message, stop = a_message(), a_message(text="/stop")
    accepted(boxes.inbox, message)
    held = leased(boxes.inbox, message)

    boxes.control.accept(stop, "control", notices=notices(stop))

    assert boxes.inbox.renew([held]) == [(True, True)]
    assert leased(boxes.control, stop, "control").note == message.id
    boxes.inbox.commit(held)
    accepted(boxes.inbox, follower := a_message())
    assert boxes.inbox.renew([leased(boxes.inbox, follower)]) == [(True, False)]


def test_a_stop_with_nothing_running_stops_nothing(boxes: Boxes) -> None:
    message, stop = a_message(), a_message(text="/stop")
    boxes.control.accept(stop, "control", notices=notices(stop))
    accepted(boxes.inbox, message)

    held = leased(boxes.inbox, message)

    assert leased(boxes.control, stop, "control").note == ""
    assert boxes.inbox.renew([held]) == [(True, False)]


def test_a_draft_is_shown_only_while_no_reply_waits(boxes: Boxes, store: Store) -> None:
    """All earlier answers are out before the next one begins to type, and nothing is typed over a final answer."""
    from app.drafts import Drafts

    message = a_message()
    accepted(boxes.inbox, message)
    held = leased(boxes.inbox, message)
    drafts = Drafts(store)
    assert drafts.write(held, message.address, "hel") == 1
    assert drafts.write(held, message.address, "hello") == 2

    typed = boxes.outbox.lease(message.conversation, "send")
    assert isinstance(typed, DraftLease)
    assert (typed.id, typed.turn, typed.version, typed.text) == (message.id, held.token, 2, "hello")
    boxes.inbox.commit(held, reply=a_reply(message, "hello there"))

    assert boxes.outbox.release(typed, shown=2) == "send"
    assert leased(boxes.outbox, message, "send").reply().text == "hello there"
    assert boxes.outbox.card_open(message.conversation, message.id)


def test_a_draft_that_was_shown_is_not_shown_again(boxes: Boxes, store: Store) -> None:
    from app.drafts import Drafts

    message = a_message()
    accepted(boxes.inbox, message)
    held = leased(boxes.inbox, message)
    Drafts(store).write(held, message.address, "hel")
    typed = boxes.outbox.lease(message.conversation, "send")
    assert isinstance(typed, DraftLease)

    boxes.outbox.release(typed, shown=typed.version)

    assert boxes.outbox.lease(message.conversation, "send") is Idle.EMPTY


def test_a_newer_item_is_left_for_a_newer_worker(inbox: Mailbox, store: Store) -> None:
    """During an upgrade old workers must not misread what new ones wrote."""
    message = a_message()
    accepted(inbox, message)
    place = keys.items("inbox", message.conversation)
    store.client.eval(
        "local i = cmsgpack.unpack(redis.call('LINDEX', KEYS[1], 0)); i.v = 99;"
        "redis.call('LSET', KEYS[1], 0, cmsgpack.pack(i))",
        1,
        place,
    )

    assert inbox.lease(message.conversation, "text") is Idle.NEWER
    assert inbox.waiting() == 1


def test_what_did_not_move_is_swept_once_per_grace(store: Store) -> None:
    """A lost wake-up is repeated; a long backlog is no reason for a storm."""
    inbox = Mailbox(store, "inbox", Limits(lease_s=0.05))
    message = a_message()
    shard = keys.shard_of(message.conversation)
    accepted(inbox, message)
    leased(inbox, message)

    due = wait_for(lambda: inbox.overdue(shard, 10))
    assert isinstance(due, list)
    first = inbox.sweep(shard, [name for _, name in due], filled=["text"])

    assert first == [("text", message.conversation)]
    assert inbox.overdue(shard, 10) == []


def test_a_waiting_head_behind_a_long_queue_is_left_alone(store: Store) -> None:
    inbox = Mailbox(store, "inbox", Limits())
    message = a_message()
    shard = keys.shard_of(message.conversation)
    accepted(inbox, message)
    store.client.zadd(keys.due("inbox", shard), {message.conversation: 1})

    assert inbox.sweep(shard, [message.conversation], filled=["text"]) == []
    look_again = store.client.zscore(keys.due("inbox", shard), message.conversation)
    assert look_again is not None
    assert look_again > (time.time() + 20) * 1000


def test_a_full_memory_refuses_new_messages_and_drains_old_ones(valkey_url: str, store: Store) -> None:
    """Only `accept` honours the server's memory limit."""
    inbox = Mailbox(store, "inbox", Limits())
    message, refused = a_message(), a_message()
    accepted(inbox, message)
    store.client.config_set("maxmemory", "1")
    try:
        impatient = Mailbox(Store(valkey_url, deadline_s=0.1), "inbox", Limits())
        from app.errors import StoreUnavailable

        with pytest.raises(StoreUnavailable):
            accepted(impatient, refused)
        held = leased(inbox, message)
        assert inbox.commit(held, reply=a_reply(message)).send == "send"
    finally:
        store.client.config_set("maxmemory", "0")
