"""What a holder may do after its lease has ended, and what stays with a message from one holder to the next."""

import pytest

from app import keys
from app.drafts import Drafts
from app.errors import LeaseLost
from app.mailbox import DraftLease, Idle, Lease, Mailbox
from app.message import Message
from app.redis import Store
from tests.conftest import Boxes
from tests.samples import a_message, a_reply, notices


def accepted(box: Mailbox, message: Message, queue: str = "text") -> None:
    box.accept(message, queue, notices=notices(message))


def leased(box: Mailbox, message: Message, queue: str = "text") -> Lease:
    held = box.lease(message.conversation, queue)
    assert isinstance(held, Lease)
    return held


def test_what_was_given_back_cannot_be_committed(boxes: Boxes) -> None:
    """A drain gives a turn back from another thread; the turn that goes on must learn that it has lost."""
    message = a_message()
    accepted(boxes.inbox, message)
    held = leased(boxes.inbox, message)
    boxes.inbox.release(held)

    with pytest.raises(LeaseLost):
        boxes.inbox.commit(held, reply=a_reply(message))
    with pytest.raises(LeaseLost):
        boxes.inbox.forward(held, message, "image")

    assert (boxes.inbox.waiting(), boxes.outbox.waiting()) == (1, 0)


def test_what_was_committed_cannot_be_given_back(boxes: Boxes) -> None:
    """The next message is the head now: it must not be counted for the last one's fault."""
    message, follower = a_message(sent_at=1.0), a_message(sent_at=2.0)
    accepted(boxes.inbox, message)
    accepted(boxes.inbox, follower)
    held = leased(boxes.inbox, message)
    boxes.inbox.commit(held)

    with pytest.raises(LeaseLost):
        boxes.inbox.release(held, counts="raised")

    assert leased(boxes.inbox, follower).raised == 0


def test_a_mailbox_at_rest_is_forgotten(boxes: Boxes, store: Store) -> None:
    """A million people who asked once must cost nothing: every part of an empty mailbox has an end."""
    message = a_message()
    accepted(boxes.inbox, message)
    boxes.inbox.commit(leased(boxes.inbox, message), reply=a_reply(message))
    boxes.outbox.commit(leased(boxes.outbox, message, "send"))

    left = [name for name in store.client.keys(f"*{message.conversation}*") if store.client.pttl(name) == -1]

    assert left == []


def test_an_outbox_that_only_showed_a_draft_is_forgotten(boxes: Boxes, store: Store) -> None:
    """The turn may never come to a reply; what it typed must not be kept for that."""
    message = a_message()
    accepted(boxes.inbox, message)
    Drafts(store).write(leased(boxes.inbox, message), message.address, "hel")
    typed = boxes.outbox.lease(message.conversation, "send")
    assert isinstance(typed, DraftLease)

    boxes.outbox.release(typed, shown=typed.version)

    assert store.client.pttl(keys.state("outbox", message.conversation)) > 0


def test_a_forwarded_message_begins_anew(boxes: Boxes) -> None:
    """What happened to it at one stop says nothing about the next."""
    message = a_message()
    accepted(boxes.inbox, message)
    boxes.inbox.release(leased(boxes.inbox, message), counts="raised")
    boxes.inbox.release(leased(boxes.inbox, message), counts="vanished")

    boxes.inbox.forward(leased(boxes.inbox, message), message, "image")

    held = leased(boxes.inbox, message, "image")
    assert (held.raised, held.vanished, held.forwards) == (0, 0, 1)


def test_a_stop_stays_with_its_message_when_the_worker_leaves(boxes: Boxes) -> None:
    """The person was told that it stops; the next worker must not write the whole answer."""
    message, stop = a_message(), a_message(text="/stop")
    accepted(boxes.inbox, message)
    held = leased(boxes.inbox, message)
    accepted(boxes.control, stop, "control")
    boxes.inbox.release(held)

    again = leased(boxes.inbox, message)

    assert boxes.inbox.renew([again]) == [(True, True)]


def test_an_answer_to_a_stop_leaves_the_running_draft_alone(boxes: Boxes, store: Store) -> None:
    """A draft's version is part of an idempotency key: a version that comes twice would not be shown."""
    message, stop = a_message(), a_message(text="/stop")
    accepted(boxes.inbox, message)
    held = leased(boxes.inbox, message)
    drafts = Drafts(store)
    drafts.write(held, message.address, "hel")
    accepted(boxes.control, stop, "control")

    boxes.control.commit(leased(boxes.control, stop, "control"), reply=a_reply(stop, "stopping"))

    assert drafts.write(held, message.address, "hello") == 2


def test_an_earlier_message_does_not_end_anothers_pause(boxes: Boxes) -> None:
    """A message that was given back for an hour waits its hour, whoever is served before it."""
    late, early = a_message(sent_at=200.0), a_message(sent_at=100.0)
    accepted(boxes.inbox, late)
    boxes.inbox.release(leased(boxes.inbox, late), after_s=3600.0)
    accepted(boxes.inbox, early)

    served = leased(boxes.inbox, early)
    boxes.inbox.commit(served)

    assert served.id == early.id
    assert boxes.inbox.lease(late.conversation, "text") is Idle.BUSY


def test_a_token_is_never_given_out_again_not_even_by_a_record_that_lost_everything(boxes: Boxes, store: Store) -> None:
    """A holder from before must not pass for one of today."""
    message = a_message()
    accepted(boxes.inbox, message)
    old = leased(boxes.inbox, message)

    store.client.flushall()
    accepted(boxes.inbox, message)
    new = leased(boxes.inbox, message)

    assert new.token > old.token
    with pytest.raises(LeaseLost):
        boxes.inbox.commit(old, reply=a_reply(message))
    assert boxes.inbox.commit(new, reply=a_reply(message)).send == "send"
