"""Desks out of the settings: what a turn and a delivery work with in a real process."""

from collections.abc import Callable
from pathlib import Path

from app.drafts import Drafts
from app.installation import replies_stream
from app.message import Attachment
from app.redis import Store
from app.settings import Settings
from workers.engine.interface import Engine
from workers.pool import PoolProcess
from workers.skills import load_skills
from workers.turn import Desk, Rules
from workers.typing import Typing

DRAFT_PATIENCE_S = 1.0  # a draft is a courtesy: the turn does not wait for it


def turn_desk(
    process: PoolProcess,
    *,
    engine: Engine | None = None,
    download: Callable[[Attachment], bytes] | None = None,
) -> Desk:
    """The desk of a pool that answers."""
    settings = process.settings
    wake = process.waker.wake
    return Desk(
        inbox=process.boxes["inbox"],
        store=process.store,
        leases=process.leases,
        skills=load_skills(skill_folders(settings)),
        wake=wake,
        wake_later=process.waker.wake_later,
        wording=process.wording,
        typing=Typing(
            Drafts(
                Store(settings.redis_url.get_secret_value(), deadline_s=DRAFT_PATIENCE_S, timeout_s=DRAFT_PATIENCE_S)
            ),
            wake,
            enabled=replies_stream(settings),
            least_interval_s=settings.card_interval_ms / 1000,
            calls_per_s=settings.card_calls_per_s,
        ),
        rules=Rules(
            turn_limit_s=settings.turn_limit_s,
            silence_limit_s=settings.silence_limit_s,
            answer_tokens=settings.answer_tokens,
            system_prompt=settings.system_prompt,
        ),
        engine=engine,
        download=download,
        draining=process.draining,
    )


def skill_folders(settings: Settings) -> list[Path]:
    return [settings.skills_dir] if settings.skills_dir else []
