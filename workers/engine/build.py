"""Settings' values -> an engine. Imports what the chosen one needs and no more: `echo` never loads torch."""

from pathlib import Path

from app.errors import BadSetting
from workers.engine.interface import Engine


def build_engine(
    *,
    kind: str,
    model: str,
    slots: int,
    max_tokens: int,
    echo_tokens_per_s: float,
    cache_dir: Path,
    cache_tokens: int = 0,
) -> Engine:
    """Start an engine. `model`: a folder or hub name; empty: the demo model, converted into `cache_dir` once.

    `cache_tokens`: what all running requests may hold together; 0: `max_tokens` for each slot.

    Raises:
        BadSetting: there is no such kind, or the model cannot be loaded; the text says what would be right.
    """
    if kind == "echo":
        from workers.engine.echo import EchoEngine

        return EchoEngine(slots, echo_tokens_per_s)
    if kind == "slots":
        from workers.engine.demo_model import prepare_demo_model
        from workers.engine.slots import SlotsEngine

        name = model or str(prepare_demo_model(cache_dir))
        return SlotsEngine.load(name, slots=slots, max_tokens=max_tokens, cache_tokens=cache_tokens or None)
    raise BadSetting(f"SWITCHYARD_ENGINE: {kind} is none; take slots or echo")
