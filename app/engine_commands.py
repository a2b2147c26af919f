"""`switchyard engine`: what an operator wants to know before the engine runs."""

import json
from typing import Annotated, Any

import typer

from app.errors import BadSetting
from app.settings import load_settings

commands = typer.Typer(no_args_is_help=True, help="About the model and its memory.")

_GIB = 2**30


@commands.callback()
def _engine() -> None:
    """About the model and its memory."""


@commands.command()
def plan(
    memory: Annotated[str, typer.Option(help="Of one GPU, such as 24GB or 80GiB.")],
    model: Annotated[str, typer.Option(help="A folder, or a hub name that is in the cache here.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=16, help="Of prompt and answer; default: the setting.")] = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
) -> None:
    """How many answers fit into a GPU at the same time, by the model's config and the size of its weights."""
    from workers.engine.plan import DTYPE_BYTES, read_memory
    from workers.engine.plan import plan as count

    settings = load_settings()
    if dtype not in DTYPE_BYTES:
        raise BadSetting(f"--dtype {dtype}: must be one of {', '.join(DTYPE_BYTES)}")
    if not (model or settings.model):
        raise BadSetting("--model: name a folder or a model of the hub, or set SWITCHYARD_MODEL")
    counted = count(
        model or settings.model,
        memory_bytes=read_memory(memory),
        max_tokens=max_tokens or settings.max_tokens,
        dtype=dtype,
    ).as_dict()
    print(json.dumps(counted) if as_json else _table(counted))


def _table(counted: dict[str, Any]) -> str:
    parameters = f", {counted['parameters']:,} parameters" if counted["parameters"] else ""
    shape = f"2 x {counted['layers']} layers x {counted['key_value_heads']} heads x {counted['head_size']}"
    rows = [
        ("memory", _gib(counted["memory_bytes"]), ""),
        ("reserved", _gib(counted["reserved_bytes"]), "for CUDA and the computing itself, an allowance"),
        ("weights", _gib(counted["weights_bytes"]), f"{counted['dtype']}{parameters}"),
        ("bytes per token", f"{counted['bytes_per_token']:,}", f"{shape}, {counted['dtype']}"),
        ("tokens that fit", f"{counted['tokens']:,}", ""),
        ("slots", f"{counted['slots']:,}", f"of {counted['max_tokens']:,} tokens each, prompt and answer"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {value:>{widths[1]}}  {note}".rstrip() for name, value, note in rows]
    return "\n".join([*lines, *(f"note: {note}" for note in counted["notes"])])


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB"
