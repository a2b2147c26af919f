"""What stands in a log line."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app.log import setup_logging


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configured = root.handlers[:], root.level, structlog.get_config()
    yield
    structlog.configure(**configured)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_fields_of_our_own_records_are_shown_and_no_librarys(capsys: pytest.CaptureFixture[str]) -> None:
    """The engine logs by the standard library: which server failed, and why, must not get lost on the way."""
    setup_logging("text", style="json")

    logging.getLogger("workers.engine.any").warning("model server failed", extra={"url": "http://gpu1/v1"})
    logging.getLogger("somebody.else").warning("sent", extra={"content": "a person's words"})

    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["url"], ours["role"]) == ("model server failed", "http://gpu1/v1", "text")
    assert "content" not in theirs
