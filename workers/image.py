"""The pool `image`: reads pictures. `celery -A workers.image worker -Q image -P threads`."""

import structlog

from app.settings import load_settings
from skills import ocr
from workers.desks import turn_desk
from workers.outlet import build_outlet
from workers.pool import PoolProcess
from workers.turn import Desk, run_turn

desk: Desk
log = structlog.get_logger()


def open_desk(process: PoolProcess) -> None:
    """Load the OCR models, so that the first person does not wait."""
    global desk
    try:
        ocr.warm()
    except ImportError as exc:  # pictures get an apology, the rest works
        log.error("no OCR: install it with pip install 'switchyard[ocr]'", missing=exc.name)
    desk = turn_desk(process, download=build_outlet(process.settings).download)


process = PoolProcess("image", load_settings(), open_desk)
celery = process.celery


@celery.task(name="image.turn")
def turn(conversation: str) -> None:
    run_turn(conversation, "image", desk=desk)
