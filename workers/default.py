"""The pool `default`: commands, stop requests, and what nobody else takes.

`celery -A workers.default worker -Q default -P threads`
"""

from app.settings import load_settings
from workers.control import run_control
from workers.desks import turn_desk
from workers.pool import PoolProcess
from workers.turn import Desk, run_turn

desk: Desk


def open_desk(process: PoolProcess) -> None:
    global desk
    desk = turn_desk(process)


process = PoolProcess("default", load_settings(), open_desk)
celery = process.celery


@celery.task(name="default.turn")
def turn(conversation: str) -> None:
    run_turn(conversation, "default", desk=desk)


@celery.task(name="default.control")
def control(conversation: str) -> None:
    run_control(conversation, box=process.boxes["control"], desk=desk)
