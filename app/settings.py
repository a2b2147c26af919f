"""Settings: environment variables and a `.env`, read by entry points only; everything below receives values.

A wrong value stops the start with its name and what would be right. The settings table of the README is made from
this page (`python -m app.settings`).
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Final, Literal

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import BadSetting

Pool = Literal["text", "image", "default", "sender"]
POOLS: tuple[Pool, ...] = ("text", "image", "default", "sender")
REPLACEABLE = (*POOLS, "listener", "web")  # roles that may be replaced when they have grown
QUEUE_OF_POOL = {"text": "text", "image": "image", "default": "default", "sender": "send"}
ENV_FILE: Final = ".env"
NO_SETTINGS: Final = frozenset(("SWITCHYARD_CI", "SWITCHYARD_READY_FD", "SWITCHYARD_ALIVE_FD"))  # ours all the same
Seconds = Annotated[float, Field(gt=0)]


def _platform(name: str) -> AliasChoices:
    return AliasChoices(name)


class Settings(BaseSettings):
    """All settings of all processes."""

    model_config = SettingsConfigDict(
        env_prefix="SWITCHYARD_",
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        extra="ignore",
        hide_input_in_errors=True,
        allow_inf_nan=False,  # of every number
    )

    # The platform, under its own names.
    dingtalk_client_id: str = Field("", validation_alias=_platform("DINGTALK_CLIENT_ID"), description="the app's id")
    dingtalk_client_secret: SecretStr = Field(
        SecretStr(""), validation_alias=_platform("DINGTALK_CLIENT_SECRET"), description="the app's secret"
    )
    dingtalk_robot_code: str = Field(
        "", validation_alias=_platform("DINGTALK_ROBOT_CODE"), description="the robot; empty: the client id"
    )
    dingtalk_card_template_id: str = Field(
        "",
        validation_alias=_platform("DINGTALK_CARD_TEMPLATE_ID"),
        description="a published AI card template; empty: answers go as Markdown",
    )
    dingtalk_card_content_key: str = Field(
        "content",
        validation_alias=_platform("DINGTALK_CARD_CONTENT_KEY"),
        description="the template's streaming variable",
    )
    dingtalk_openapi_endpoint: str = Field(
        "https://api.dingtalk.com",
        validation_alias=_platform("DINGTALK_OPENAPI_ENDPOINT"),
        pattern=r"^https?://",
        description="where the platform's API is",
    )
    dingtalk_oapi_endpoint: str = Field(
        "https://oapi.dingtalk.com",
        validation_alias=_platform("DINGTALK_OAPI_ENDPOINT"),
        pattern=r"^https?://",
        description="where the platform's older API is",
    )

    # Where things are.
    redis_url: SecretStr = Field(
        SecretStr(""), description="the record (Valkey or Redis, appendfsync always); empty: an embedded server"
    )
    broker_url: SecretStr = Field(
        SecretStr(""), description="the broker (redis:// or amqp://); empty: an embedded server"
    )
    data_dir: Path = Field(Path("data"), description="the folder of the embedded servers and of the supervisor")
    bind: str = Field("127.0.0.1", description="the address on which the web process listens")
    web_port: int = Field(8080, ge=1, le=65535, description="the port of health and readiness")
    pools: Annotated[dict[Pool, int], NoDecode] = Field(
        default_factory=lambda: dict.fromkeys(POOLS, 1),
        description="worker processes of each pool, such as `text=2,image=1,default=1,sender=1`",
    )
    max_rss_mb: Annotated[dict[str, int], NoDecode] = Field(
        default_factory=dict,
        description="memory at which a process of a role is drained and replaced, such as `text=12000,image=1500`",
    )
    connections: int = Field(2, ge=1, le=20, description="connections of a listener to the platform")

    # The promises.
    lease_s: Seconds = Field(10.0, description="a turn that is not renewed for so long is taken over")
    sweep_interval_s: Seconds = Field(1.0, description="how often the sweeper looks for what is due")
    dedupe_s: Seconds = Field(86_400.0, description="how long message ids are remembered")
    inbox_limit: int = Field(20, ge=1, description="waiting messages of one conversation")
    waiting_limit: int = Field(10_000, ge=1, description="waiting messages of all conversations")
    stale_after_s: Seconds = Field(900.0, description="a message that waited longer gets an apology, not an answer")
    turn_limit_s: Seconds = Field(120.0, description="a turn that takes longer is ended")
    silence_limit_s: Seconds = Field(60.0, description="a turn without a token for so long is ended")
    drain_s: float = Field(20.0, ge=5, description="at SIGTERM: time to finish or hand back what runs")
    reply_expires_s: Seconds = Field(86_400.0, description="a reply that cannot be sent for so long is a dead letter")
    unsure: Literal["resend", "skip"] = Field(
        "resend", description="a sender died in mid-call, and the call has no idempotency key: send again, or not"
    )

    # Replies.
    reply_mode: Literal["auto", "stream", "card", "markdown"] = Field(
        "auto",
        description="`stream`: a card that types; `card`: created and finished at once; `markdown`: no card; "
        "`auto`: `stream` with a card template, else `markdown`",
    )
    card_calls_per_s: float = Field(20.0, gt=0, description="calls a second to each card API, per sender process")
    card_calls_per_month: int = Field(0, ge=0, description="card calls a month; then Markdown. 0: unlimited")
    card_interval_ms: int = Field(800, ge=50, description="least time between two updates of a card")

    # The assistant.
    locale: Literal["zh-CN", "en"] = Field("zh-CN", description="the language of what the assistant itself says")
    system_prompt: str = Field("", description="what the model is told first; empty: a short default in the locale")
    context_s: Seconds = Field(1800.0, description="how long a conversation remembers what was said")
    skills_dir: Path | None = Field(None, description="one more folder of skills")

    # The engine.
    engine: Literal["slots", "echo"] = Field("slots", description="`slots`: the model; `echo`: no model, for tests")
    model: str = Field("", description="a folder or hub name; empty: SmolLM2-135M-Instruct out of its package")
    model_cache_dir: Path | None = Field(None, description="where that model is kept; empty: in the data folder")
    max_tokens: int = Field(2048, ge=16, description="context of the model in tokens, prompt and answer together")
    answer_tokens: int = Field(512, ge=1, description="an answer is at most so long, in tokens")
    slots: int = Field(16, ge=1, le=1024, description="answers that are written at the same time, per text worker")
    echo_tokens_per_s: float = Field(0.0, ge=0, description="speed of `echo` for each answer; 0: at once")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")
    log_format: Literal["pretty", "json"] = Field("pretty", description="how it is logged")

    @field_validator("pools", mode="before")
    @classmethod
    def _read_pools(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pools: dict[str, int] = dict.fromkeys(POOLS, 1)
        for part in filter(None, (part.strip() for part in value.split(","))):
            name, _, count = part.partition("=")
            if name.strip() not in POOLS or not count.strip().isdigit() or int(count) > 64:
                raise ValueError("write it as text=2,image=1,default=1,sender=1, each 0 to 64")
            pools[name.strip()] = int(count)
        return pools

    @field_validator("max_rss_mb", mode="before")
    @classmethod
    def _read_max_rss(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        limits: dict[str, int] = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            role, _, megabytes = part.partition("=")
            if role.strip() not in REPLACEABLE or not megabytes.strip().isdigit():
                raise ValueError(f"write it as text=12000,image=1500, with {', '.join(REPLACEABLE)}")
            limits[role.strip()] = int(megabytes)
        return limits

    @field_validator("skills_dir")
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError(f"there is no folder {value}")
        return value

    @property
    def model_cache(self) -> Path:
        """Where the converted model of the package is kept."""
        return self.model_cache_dir or self.data_dir / "models"

    @property
    def robot_code(self) -> str:
        """The robot that speaks: its own code, or the client id."""
        return self.dingtalk_robot_code or self.dingtalk_client_id


def load_settings() -> Settings:
    """Read the environment and `.env`.

    Raises:
        BadSetting: with one line for each wrong value.
    """
    try:
        return Settings()
    except ValidationError as exc:
        lines = [f"{_variable(str(error['loc'][0]))}: {error['msg']}" for error in exc.errors()]
        raise BadSetting("\n".join(lines)) from exc


def unknown_variables() -> list[str]:
    """Names in the environment and in `.env` that look like settings and are none, sorted: misspelt ones, mostly."""
    named = {*os.environ, *dotenv_values(ENV_FILE, encoding="utf-8")}
    known = {*_variables(), *NO_SETTINGS}
    return sorted(name for name in named if name.upper().startswith("SWITCHYARD_") and name.upper() not in known)


def closest_variable(name: str) -> str:
    """The setting that a misspelt name probably means; empty if none is near."""
    return next(iter(difflib.get_close_matches(name.upper(), _variables(), n=1, cutoff=0.75)), "")


def _variables() -> list[str]:
    return [_variable(field) for field in Settings.model_fields]


def _variable(field: str) -> str:
    return field.upper() if field.upper().startswith("DINGTALK_") else f"SWITCHYARD_{field.upper()}"


def settings_table() -> str:
    """The settings as a Markdown table, for the README."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, dict):
            default = ",".join(f"{key}={value}" for key, value in default.items())
        shown = f"`{default:g}`" if isinstance(default, float) else f"`{default}`" if default not in ("", None) else ""
        rows.append(f"| `{_variable(name)}` | {shown} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(settings_table())
