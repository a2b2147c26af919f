"""The pool `sender`: the only one that writes to platforms. `celery -A workers.sender worker -Q send -P threads`."""

from app.installation import replies_in_cards
from app.quota import MonthlyCalls
from app.settings import load_settings
from workers.delivery import SendDesk
from workers.delivery import deliver as deliver_for
from workers.outlet import CALL_S, build_outlet
from workers.pool import PoolProcess

MONTH_IS_OVER = "ApiCountLimitForOrg"
desk: SendDesk


def open_desk(process: PoolProcess) -> None:
    global desk
    settings = process.settings
    in_cards, month = replies_in_cards(settings), MonthlyCalls(process.store, settings.card_calls_per_month)
    desk = SendDesk(
        outbox=process.boxes["outbox"],
        leases=process.leases,
        outlet=build_outlet(settings, month.count),
        wake=process.waker.wake,
        wake_later=process.waker.wake_later,
        wording=process.wording,
        cards=lambda: in_cards and month.left(),
        on_refused=lambda code: month.used_up() if MONTH_IS_OVER in code else None,
        reply_expires_s=settings.reply_expires_s,
        unsure=settings.unsure,
        draining=process.draining,
        leaving=process.leaving,
        call_s=CALL_S,
    )


process = PoolProcess("sender", load_settings(), open_desk, finishes=True)
celery = process.celery


@celery.task(name="send.deliver")
def deliver(conversation: str) -> None:
    deliver_for(conversation, desk=desk)
