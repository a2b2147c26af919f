"""Stop requests: they jump the line through a box of their own. The stop itself was set when it was accepted."""

import structlog

from app.errors import LeaseLost, MalformedFrame
from app.mailbox import Lease, Mailbox
from app.message import Reply
from workers.turn import Desk

CONTROL_LIMIT_S = 10.0
log = structlog.get_logger()


def run_control(conversation: str, *, box: Mailbox, desk: Desk) -> None:
    """Answer a stop request: what was running is being stopped, or there was nothing to stop."""
    if desk.draining.is_set():
        desk.wake("control", conversation)
        return
    held = box.lease(conversation, "control")
    if not isinstance(held, Lease):
        return
    with desk.leases.holding(held, limit_s=CONTROL_LIMIT_S):
        try:
            done = box.commit(held, reply=answer(held, desk))
        except MalformedFrame:  # nobody can be told; what it stopped is stopped
            log.error("stop request cannot be read", id=held.id)
            done = box.commit(held)
        except LeaseLost:
            log.info("lease lost; the work is thrown away", id=held.id)
            return
    for queue in filter(None, (done.send, done.next_queue)):
        desk.wake(queue, conversation)


def answer(held: Lease, desk: Desk) -> Reply:
    """`held.note` names the message that was running when the request came."""
    message = held.message()
    key = "apology_failed" if held.condemned else "stopping" if held.note else "nothing_to_stop"
    return Reply(
        id=held.id,
        conversation=held.conversation,
        address=message.address,
        text=desk.wording.say(key),
        kind="notice",
    )
