"""Settings' values -> an engine. Imports what the chosen one needs and no more: `echo` never loads torch."""

from pathlib import Path

from app.errors import BadSetting
from workers.engine.interface import Engine


def build_engine(
    *, kind: str, model: str, slots: int, max_tokens: int, echo_tokens_per_s: float, cache_dir: Path
) -> Engine:
    """Start an engine. `model`: a folder or hub name; empty: the demo model, converted into `cache_dir` once.

    Raises:
        BadSetting: there is no such kind, or the model cannot be loaded; the text says what would be right.
    """
    if kind == "echo":
        from workers.engine.echo import EchoEngine

        return EchoEngine(slots, echo_tokens_per_s)
    if kind == "slots":
        from workers.engine.demo_model import prepare_demo_model
        from workers.engine.slots import SlotsEngine

        return SlotsEngine.load(model or str(prepare_demo_model(cache_dir)), slots=slots, max_tokens=max_tokens)
    raise BadSetting(f"SWITCHYARD_ENGINE: {kind} is none; take slots or echo")
