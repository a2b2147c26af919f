"""What the engines of all text workers say of themselves: each tells it every second, and whoever is silent for a few
seconds is forgotten. The names of the fields are those of workers/engine/figures.py.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from app import keys
from app.redis import Store

KEPT_S: Final = 5.0
VERSION: Final = 1  # the newest that is understood here


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds: `counts[i]` are at most `bounds[i]` and above the bound before it, the last above them all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float


class EngineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One engine's reading. None: it cannot know."""

    version: int
    slots: int
    running: int
    waiting: int
    prompt_tokens: int
    generated_tokens: int
    ended: dict[str, int]
    first_token_s: Spread
    output_token_s: Spread
    reused_tokens: int | None = None
    cache_tokens: int | None = None
    cache_tokens_used: int | None = None
    evictions: int | None = None
    restarts: int | None = None
    out_of_memory: int | None = None
    tokens_per_s: float | None = None  # that came out of late


def tell_engine(store: Store, worker: str, figures: Mapping[str, Any]) -> None:
    """Write down what a worker's engine says. Not repeated. Raises StoreUnavailable."""
    store.run_once("tell_engine", [keys.ENGINES], [worker, json.dumps(figures), round(KEPT_S * 1000)])


def read_engines(store: Store) -> dict[str, EngineFigures]:
    """What was told of late, by worker; without what only another release can read. Raises StoreUnavailable."""
    flat = store.run("engines", [keys.ENGINES], [])
    told = {name.decode(): figures for name, figures in zip(flat[::2], flat[1::2], strict=True)}
    found = {name: _read(figures) for name, figures in sorted(told.items())}
    return {name: figures for name, figures in found.items() if figures is not None}


def _read(told: bytes) -> EngineFigures | None:
    try:
        figures = msgspec.json.decode(told, type=EngineFigures)
    except msgspec.DecodeError:
        return None
    return figures if figures.version <= VERSION else None
