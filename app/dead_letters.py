"""The commands `switchyard dead-letters …`: what was given up is looked at, put back, or forgotten.

They work beside a running installation. What people wrote is shown only on demand.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.errors import BadSetting, NotReplayed, StoreUnavailable
from app.settings import Settings, load_settings

if TYPE_CHECKING:  # the command line must come up quickly, whatever the command
    from app.letters import Kept, Letters

PATIENCE_S = 2.0
_HEADS = ("ID", "WHEN", "BOX", "REASON", "ERROR", "MESSAGE")

commands = typer.Typer(no_args_is_help=True, help="What was given up: look at it, have it answered late, forget it.")
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="As `list` shows them, or a message's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="One object, or a list of objects.")]


@commands.command("list")
def list_letters(as_json: AsJson = False) -> None:
    """Each dead letter with its time, box and reason; the newest last, and nothing that anybody wrote."""
    with _letters(load_settings()) as letters:
        kept = letters.all()
    if as_json:
        print(json.dumps([_summary(one) for one in kept]))
    else:
        print(_table([_row(one) for one in kept]) if kept else "no dead letters")


@commands.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID")],
    text: Annotated[bool, typer.Option("--text", help="Also what the person, or the assistant, wrote.")] = False,
    as_json: AsJson = False,
) -> None:
    """Why one was given up, and where it broke."""
    with _letters(load_settings()) as letters:
        kept = letters.find(id)
    summary = {**_summary(kept), "where": kept.letter.where}
    if text:
        summary["text"] = _text_of(kept)
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print(f"{name}:\n{value.rstrip()}" if name in ("where", "text") and value else f"{name}: {value}")


@commands.command()
def replay(ids: Ids = None) -> None:
    """Have it answered after all: a dead message as a new one, a dead reply by sending it again."""
    settings = load_settings()
    with _letters(settings) as letters:
        for kept in [letters.find(one) for one in _named(ids)]:
            new_id = put_back(kept, letters, settings)
            how = "sent again, though it may have been seen," if kept.letter.box == "outbox" else "answered"
            print(f"{kept.name}: will be {how} as {shlex.quote(new_id)}")


@commands.command()
def drop(
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget it: nobody is told."""
    with _letters(load_settings()) as letters:
        if every and ids:
            raise BadSetting("drop: name some, or say --all")
        found = letters.all() if every else [letters.find(one) for one in _named(ids)]
        if every and not sure:
            typer.confirm(f"Forget all {len(found)} dead letters?", abort=True)
        for kept in found:
            letters.drop(kept)
    print(f"{len(found)} dropped")


def put_back(kept: "Kept", letters: "Letters", settings: Settings) -> str:
    """Replay one letter; the new id. Raises NotReplayed, NoSuchLetter."""
    from app.installation import limits_of, mailboxes
    from app.letters import message_of, reply_of
    from app.routing import route
    from app.wording import Wording

    if kept.letter.box == "outbox":
        reply = reply_of(kept)
        late = Wording(settings.locale).say("late_reply", text=reply.text)
        return letters.put_back(kept, reply, "send", text=late)
    message, inbox = message_of(kept), mailboxes(letters.store, limits_of(settings))["inbox"]
    if inbox.waiting() >= settings.waiting_limit:
        raise NotReplayed(f"{kept.name}: as many messages wait as SWITCHYARD_WAITING_LIMIT allows; replay it later")
    return letters.put_back(kept, message, route(message), limit=settings.inbox_limit)


@contextmanager
def _letters(settings: Settings) -> Iterator["Letters"]:
    """The dead letters of the record that the settings name, or of the embedded one."""
    from app import servers
    from app.letters import Letters
    from app.redis import Store

    url = servers.resolved(settings).redis_url.get_secret_value()
    if not url:
        raise BadSetting(
            f"SWITCHYARD_REDIS_URL: it is not set, and {settings.data_dir} holds no record; set SWITCHYARD_DATA_DIR to "
            "the folder of the installation"
        )
    store = Store(url, deadline_s=PATIENCE_S, timeout_s=PATIENCE_S)
    try:
        yield Letters(store)
    except StoreUnavailable as exc:
        raise StoreUnavailable(f"the record does not answer: is `switchyard up` running? ({exc})") from exc
    finally:
        store.close()


def _named(ids: Sequence[str] | None) -> list[str]:
    if not ids:
        raise BadSetting("name at least one ID; `switchyard dead-letters list` shows them")
    return list(dict.fromkeys(ids))


def _summary(kept: "Kept") -> dict[str, Any]:
    letter = kept.letter
    return {
        "id": kept.name,
        "at": datetime.fromtimestamp(kept.at, UTC).isoformat(timespec="seconds"),
        "box": letter.box,
        "reason": letter.reason,
        "error": letter.error,
        "message_id": letter.id,
    }


def _row(kept: "Kept") -> tuple[str, ...]:
    summary = _summary(kept)
    return (*(summary[name] or "-" for name in ("id", "at", "box", "reason", "error")), shlex.quote(kept.letter.id))


def _text_of(kept: "Kept") -> str:
    from app.letters import message_of, reply_of

    return reply_of(kept).text if kept.letter.box == "outbox" else message_of(kept).text


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in (_HEADS, *rows))
