"""Logs: constants with fields, never a person's text. Pretty for people, JSON for machines."""

import logging
import sys
from typing import Literal

import structlog

_OURS = ("app.", "workers.", "skills.")
log_levels = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def setup_logging(role: str, *, level: str = "info", style: Literal["pretty", "json"] = "pretty") -> None:
    """Route structlog and the standard library's loggers to stderr, with the role on each line."""

    def with_role(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["role"] = role
        return event

    shared: list[structlog.typing.Processor] = [
        with_role,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=False),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(log_levels[level]),
        cache_logger_on_first_use=True,
    )
    fields = structlog.stdlib.ExtraAdder()

    def own_fields(logger: logging.Logger, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """The `extra` of our own records. Nobody else's: a library does not know what must not be logged."""
        return fields(logger, name, event) if event["_record"].name.startswith(_OURS) else event

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, own_fields],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_levels[level])
    # Those of the network log addresses, which carry secrets; Celery's log two lines a task.
    for chatty in ("httpx", "httpcore", "websockets", "urllib3", "celery", "kombu", "uvicorn", "amqp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
