"""The pool `text`: answers texts with the engine that it holds. `celery -A workers.text worker -Q text -P threads`."""

from app.settings import load_settings
from workers.desks import turn_desk
from workers.engine.build import build_engine
from workers.pool import PoolProcess
from workers.turn import Desk, run_turn

desk: Desk


def open_desk(process: PoolProcess) -> None:
    """Load the model, once for all turns of this process."""
    global desk
    settings = process.settings
    engine = build_engine(
        kind=settings.engine,
        model=settings.model,
        slots=settings.slots,
        max_tokens=settings.max_tokens,
        cache_mb=settings.cache_mb,
        echo_tokens_per_s=settings.echo_tokens_per_s,
        cache_dir=settings.model_cache,
    )
    desk = turn_desk(process, engine=engine)


process = PoolProcess("text", load_settings(), open_desk)
celery = process.celery


@celery.task(name="text.turn")
def turn(conversation: str) -> None:
    run_turn(conversation, "text", desk=desk)
    if desk.engine is not None and not desk.engine.alive():
        process.replace("the engine stopped")
