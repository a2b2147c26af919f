"""The listener's process as it is, but it wakes nobody: what storing and acknowledging alone cost.

`python -m benchmarks.unwoken`.
"""

from app.listening import listen
from app.log import setup_logging
from app.settings import load_settings


def wake_nobody(_queue: str, _conversation: str, /) -> None:
    """What follows is in the record, and that is all."""


def main() -> None:
    """Read the settings and listen."""
    settings = load_settings()
    setup_logging("listener", level=settings.log_level)
    listen(settings, wake=wake_nobody)


if __name__ == "__main__":
    main()
