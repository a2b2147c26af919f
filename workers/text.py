"""The pool `text`: answers texts with the engine that it holds. `celery -A workers.text worker -Q text -P threads`."""

from app.machine import worker_name
from app.settings import load_settings
from workers.desks import turn_desk
from workers.engine.adapter_rules import AdapterRules
from workers.engine.build import Remote, build_engine
from workers.pool import PoolProcess
from workers.reporter import Reporter
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
        echo_tokens_per_s=settings.echo_tokens_per_s,
        cache_dir=settings.model_cache,
        cache_tokens=settings.cache_tokens,
        remote=Remote(
            urls=settings.openai_base_urls,
            api_key=settings.openai_api_key.get_secret_value(),
            ca_file=settings.openai_ca_file,
            first_token_s=settings.openai_first_token_s,
            silence_s=settings.silence_limit_s,
        ),
        adapters=AdapterRules(folder=settings.adapters, most_bytes=settings.adapters_mb << 20),
        dtype=None if settings.dtype == "auto" else settings.dtype,
        compiled=settings.compile,
        cuda_graphs=settings.cuda_graphs,
    )
    desk = turn_desk(process, engine=engine)
    name = worker_name(process.node, settings.data_dir)
    Reporter(settings.redis_url.get_secret_value(), name, engine.figures).start()


process = PoolProcess("text", load_settings(), open_desk)
celery = process.celery


@celery.task(name="text.turn")
def turn(conversation: str) -> None:
    run_turn(conversation, "text", desk=desk)
    if desk.engine is not None and not desk.engine.alive():
        process.replace("the engine stopped")
