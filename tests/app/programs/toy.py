"""A process that does nothing, as a supervisor's child: it says that it is ready, and ends when told so.

Arguments: `stubborn` (SIGTERM does not end it), `gate=FILE` (not ready before the file is there), `worn=FILE` (leaves
with status 75 when the file is there), `dies` (ends by itself at once), `connected` (says, once, that the platform is).
"""

import os
import signal
import sys
import time
from pathlib import Path

from app import process

_stop = False


def main() -> None:
    options = dict(option.partition("=")[::2] for option in sys.argv[1:])
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.signal(process.EVERYTHING_STOPS, _on_everything_stops)
    process.end_with_parent(lambda: print("the supervisor is gone", flush=True))
    if "dies" in options:
        sys.exit(1)
    while "gate" in options and not Path(options["gate"]).exists() and not _stop:
        time.sleep(0.02)
    if "connected" in options:
        _say_connected()
    process.ready()
    while not _stop or "stubborn" in options:
        worn = Path(options.get("worn", "/nowhere"))
        if worn.exists():
            worn.unlink()
            sys.exit(process.REPLACE_ME)
        time.sleep(0.02)
    print(f"ended at {time.monotonic()}", flush=True)


def _say_connected() -> None:
    import redis  # the other toys start sooner without these

    from app import keys
    from app.machine import machine_name
    from app.settings import load_settings

    settings = load_settings()
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as record:
        record.set(keys.listening(machine_name(settings.data_dir)), 1)


def _on_sigterm(number: int, frame: object) -> None:
    global _stop
    _stop = True
    os.write(1, f"asked at {time.monotonic()}\n".encode())


def _on_everything_stops(number: int, frame: object) -> None:
    os.write(1, f"told at {time.monotonic()}\n".encode())


if __name__ == "__main__":
    main()
