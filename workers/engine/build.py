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
    cache_mb: int = 0,
) -> Engine:
    """Start an engine. `model`: a folder or hub name; empty: the demo model, converted into `cache_dir` once.

    `kind` "auto" is the one that suits the device. `cache_mb`: of `paged`, 0: what `slots` and `max_tokens` ask for.

    Raises:
        BadSetting: there is no such kind, or the model cannot be loaded; the text says what would be right.
    """
    if kind == "echo":
        from workers.engine.echo import EchoEngine

        return EchoEngine(slots, echo_tokens_per_s)
    if kind == "auto":
        kind = suited_kind()
    if kind == "slots":
        from workers.engine.demo_model import prepare_demo_model
        from workers.engine.slots import SlotsEngine

        return SlotsEngine.load(model or str(prepare_demo_model(cache_dir)), slots=slots, max_tokens=max_tokens)
    if kind == "paged":
        from workers.engine.demo_model import prepare_demo_model
        from workers.engine.paged import PagedEngine

        folder = model or str(prepare_demo_model(cache_dir))
        return PagedEngine.load(folder, slots=slots, max_tokens=max_tokens, cache_mb=cache_mb)
    raise BadSetting(f"SWITCHYARD_ENGINE: {kind} is none; take auto, slots, paged or echo")


def suited_kind() -> str:
    """`paged` where there is a GPU, else `slots`. Loads torch: only who is about to load a model asks."""
    import torch

    return "paged" if torch.cuda.is_available() else "slots"
