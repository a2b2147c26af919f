"""Settings' values -> an engine. Imports what the chosen one needs and no more: `echo` never loads torch."""

from dataclasses import dataclass
from pathlib import Path

from app.errors import BadSetting
from workers.engine.adapter_rules import AdapterRules
from workers.engine.interface import Engine

LEAST_TOKENS = 16  # of the cache: fewer hold no prompt and an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Where the engine `openai` finds its servers, and how long it waits for them, in seconds."""

    urls: tuple[str, ...]
    api_key: str = ""
    ca_file: Path | None = None
    first_token_s: float = 60.0
    silence_s: float = 60.0  # a turn that hears nothing for so long is given up; a server has half of it


def build_engine(
    *,
    kind: str,
    model: str,
    slots: int,
    max_tokens: int,
    echo_tokens_per_s: float,
    cache_dir: Path,
    cache_tokens: int = 0,
    remote: Remote | None = None,
    adapters: AdapterRules | None = None,
    dtype: str | None = None,
    compiled: bool = False,
    cuda_graphs: bool = True,
) -> Engine:
    """Start an engine. `model`: a folder or hub name; empty: the demo model, converted into `cache_dir` once.

    `kind` "auto" is the one that suits the device. With `openai` the model is its name at the servers of `remote`.
    `cache_tokens`: what all running requests may hold together; 0: `max_tokens` for each slot. `adapters`: if some are
    to be had, "auto" is the engine that runs them. `dtype`: torch's name of one; None: that which suits the device.
    `compiled` is for `slots`, `cuda_graphs` for `paged`.

    Raises:
        BadSetting: there is no such kind, or the model cannot be loaded; the text says what would be right.
    """
    if 0 < cache_tokens < LEAST_TOKENS:
        raise BadSetting(f"SWITCHYARD_CACHE_TOKENS: at least {LEAST_TOKENS}, or 0")
    if kind == "echo":
        from workers.engine.echo import EchoEngine

        return EchoEngine(slots, echo_tokens_per_s)
    if kind == "auto":
        kind = "slots" if adapters is not None and adapters.folder is not None else suited_kind()
    if kind in ("slots", "paged"):
        from workers.engine.demo_model import prepare_demo_model

        model = model or str(prepare_demo_model(cache_dir))
    cache = cache_tokens or None
    if kind == "slots":
        from workers.engine.slots import SlotsEngine

        return SlotsEngine.load(
            model,
            slots=slots,
            max_tokens=max_tokens,
            cache_tokens=cache,
            dtype=dtype,
            adapters=adapters,
            compiled=compiled,
        )
    if kind == "paged":
        from workers.engine.paged import PagedEngine

        return PagedEngine.load(
            model, slots=slots, max_tokens=max_tokens, cache_tokens=cache, dtype=dtype, graphs=cuda_graphs
        )
    if kind == "openai" and remote is not None:
        return _connect(remote, model=model, slots=slots, max_tokens=max_tokens)
    raise BadSetting(f"SWITCHYARD_ENGINE: {kind} is none; take auto, slots, paged, openai or echo")


def _connect(remote: Remote, *, model: str, slots: int, max_tokens: int) -> Engine:
    from workers.engine.openai.client import Limits
    from workers.engine.openai.engine import OpenAIEngine

    engine = OpenAIEngine(
        remote.urls,
        model=model,
        slots=slots,
        max_tokens=max_tokens,
        api_key=remote.api_key,
        ca_file=remote.ca_file,
        limits=Limits(first_token_s=remote.first_token_s, between_tokens_s=min(30.0, remote.silence_s / 2)),
    )
    try:
        engine.look_around()
    except BaseException:
        engine.close()
        raise
    return engine


def suited_kind() -> str:
    """`paged` where there is a GPU, else `slots`. Loads torch: only who is about to load a model asks."""
    import torch

    return "paged" if torch.cuda.is_available() else "slots"
