"""Settings: environment variables and a `.env`, read by entry points only; everything below receives values.

A wrong value stops the start with its name and what would be right. The settings table of the README is made from
this page (`python -m app.settings_table`).
"""

import difflib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.address import has_more_than_a_path, is_address, read_address
from app.crashpoints import Order, read_orders
from app.errors import BadSetting
from app.wrong_values import what_is_right

Pool = Literal["text", "image", "default", "sender"]
POOLS: tuple[Pool, ...] = ("text", "image", "default", "sender")
REPLACEABLE = (*POOLS, "listener", "web")  # roles that may be replaced when they have grown
QUEUE_OF_POOL = {"text": "text", "image": "image", "default": "default", "sender": "send"}
ENV_FILE: Final = ".env"
NO_SETTINGS: Final = frozenset(("SWITCHYARD_CI", "SWITCHYARD_READY_FD", "SWITCHYARD_ALIVE_FD"))  # ours all the same
YEAR_S: Final = 365 * 86_400
Seconds = Annotated[float, Field(gt=0, le=YEAR_S)]
_RECORD_FORMS = (
    "must be such as redis://host:6379/0, rediss://host:6379/0 or unix:///folder/socket; "
    "of a cluster redis+cluster://host:6379,host:6379 or rediss+cluster://..."
)
_BROKER_SCHEMES = ("redis", "rediss", "amqp", "amqps")
LOOPBACK: Final = frozenset(("127.0.0.1", "localhost", "::1"))


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
        description="where the platform's API is",
    )
    dingtalk_oapi_endpoint: str = Field(
        "https://oapi.dingtalk.com",
        validation_alias=_platform("DINGTALK_OAPI_ENDPOINT"),
        description="where the platform's older API is",
    )

    # Where things are.
    redis_url: SecretStr = Field(
        SecretStr(""),
        description="the record (Valkey or Redis, appendfsync always), also `redis+cluster://host:port,host:port`; "
        "empty: an embedded server",
    )
    replicas_ack: int = Field(
        0, ge=0, le=8, description="replicas of the record that must have a write before it counts; for failovers"
    )
    broker_url: SecretStr = Field(
        SecretStr(""), description="the broker (redis:// or amqp://); empty: an embedded server"
    )
    data_dir: Path = Field(Path("data"), description="the folder of the embedded servers and of the supervisor")
    bind: str = Field("127.0.0.1", description="the address on which the web process listens")
    web_port: int = Field(8080, ge=1, le=65535, description="the port of health, readiness and metrics")
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
    record_memory_mb: int = Field(
        1024, ge=0, le=2**24, description="memory of the embedded record; beyond, messages wait. 0: no limit"
    )
    disk_free_mb: int = Field(200, ge=0, le=2**32, description="free disk of the embedded record; below, messages wait")
    disk_free_percent: float = Field(5.0, ge=0, le=90, description="the same as a share of the disk; the larger counts")
    stale_after_s: Seconds = Field(900.0, description="a message that waited longer gets an apology, not an answer")
    turn_limit_s: Seconds = Field(120.0, description="a turn that takes longer is ended")
    silence_limit_s: Seconds = Field(60.0, description="a turn without a token for so long is ended")
    drain_s: float = Field(20.0, ge=5, le=YEAR_S, description="at SIGTERM: time to finish or hand back what runs")
    reply_expires_s: Seconds = Field(86_400.0, description="a reply that cannot be sent for so long is a dead letter")
    unsure: Literal["resend", "skip"] = Field(
        "resend", description="a call without idempotency key ended without an answer: send again, or not"
    )

    # Replies.
    reply_mode: Literal["auto", "stream", "card", "markdown"] = Field(
        "auto",
        description="`stream`: a card that types; `card`: created and finished at once; `markdown`: no card; "
        "`auto`: `stream` with a card template, else `markdown`",
    )
    card_calls_per_s: float = Field(20.0, gt=0, description="calls a second to each card API, per sender process")
    card_calls_per_month: int = Field(0, ge=0, description="card calls a month; then Markdown. 0: unlimited")
    card_interval_ms: int = Field(800, ge=50, le=YEAR_S * 1000, description="least time between two updates of a card")

    # The assistant.
    locale: Literal["zh-CN", "en"] = Field("zh-CN", description="the language of what the assistant itself says")
    system_prompt: str = Field("", description="what the model is told first; empty: a short default in the locale")
    context_s: Seconds = Field(1800.0, description="how long a conversation remembers what was said")
    skills_dir: Path | None = Field(None, description="one more folder of skills")

    # The engine.
    engine: Literal["auto", "slots", "paged", "openai", "echo"] = Field(
        "auto",
        description="`slots`: the model in the text worker, best on a CPU; `paged`: the same, best on a GPU; `auto`: "
        "the better of the two; `openai`: a model at servers such as vLLM; `echo`: no model, for tests",
    )
    model: str = Field(
        "",
        validate_default=True,
        description="a folder or hub name, or the name at the servers of `openai`; empty: SmolLM2-135M-Instruct out of "
        "its package",
    )
    openai_base_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validate_default=True,
        description="the servers of `openai`, such as `http://gpu1:8000/v1,http://gpu2:8000/v1`; one that fails is "
        "replaced by the others",
    )
    openai_api_key: SecretStr = Field(SecretStr(""), description="what these servers ask for, if they do")
    openai_ca_file: Path | None = Field(
        None, description="certificates (PEM) to trust at these servers; empty: those of the system"
    )
    openai_first_token_s: Seconds = Field(
        60.0, description="a server without a token for so long: another one is asked"
    )
    model_cache_dir: Path | None = Field(None, description="where that model is kept; empty: in the data folder")
    max_tokens: int = Field(2048, ge=16, description="context of the model in tokens, prompt and answer together")
    answer_tokens: int = Field(512, ge=1, description="an answer is at most so long, in tokens")
    slots: int = Field(16, ge=1, le=1024, description="answers that are written at the same time, per text worker")
    cache_tokens: int = Field(
        0, ge=0, description="tokens that running prompts and answers may hold together; 0: `MAX_TOKENS` for each slot"
    )
    adapters: Path | None = Field(
        None,
        description="a folder of LoRA adapters, which skills may name; `auto` is `slots` then",
    )
    adapters_mb: int = Field(1024, ge=1, le=2**24, description="memory of a text worker for adapters")
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto", description="numbers that `slots` and `paged` compute in; `auto`: those that suit the device"
    )
    compile: bool = Field(False, description="`slots` has torch compile its layers: slower on a CPU, try it on a GPU")
    cuda_graphs: bool = Field(
        True, description="`paged` captures its steps on a GPU; `false` saves the memory of that and some of the start"
    )
    echo_tokens_per_s: float = Field(0.0, ge=0, description="speed of `echo` for each answer; 0: at once")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")
    log_format: Literal["pretty", "json"] = Field("pretty", description="how it is logged")

    # For tests of the promises, and no operator's: without a description they stand in no table.
    test_installation: bool = False  # its processes die where app/crashpoints.py is told to
    die_between: Annotated[tuple[Order, ...], NoDecode] = ()

    @field_validator("pools", mode="before")
    @classmethod
    def _read_pools(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        how = "write it as text=2,image=1,default=1,sender=1, each 0 to 64"
        named = _named_numbers(value, POOLS, how)
        if any(count > 64 for count in named.values()):
            raise ValueError(how)
        return dict.fromkeys(POOLS, 1) | named

    @field_validator("max_rss_mb", mode="before")
    @classmethod
    def _read_max_rss(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return _named_numbers(value, REPLACEABLE, f"write it as text=12000,image=1500, with {', '.join(REPLACEABLE)}")

    @field_validator("redis_url")
    @classmethod
    def _is_a_record(cls, value: SecretStr) -> SecretStr:
        try:
            read_address(value.get_secret_value() or "redis://embedded")
        except ValueError:
            raise ValueError(_RECORD_FORMS) from None
        return value

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not is_address(value.get_secret_value(), _BROKER_SCHEMES):
            raise ValueError("must be such as redis://host:6379/0 or amqp://user:password@host:5672/, also with TLS")
        return value

    @field_validator("dingtalk_openapi_endpoint", "dingtalk_oapi_endpoint")
    @classmethod
    def _is_an_endpoint(cls, value: str) -> str:
        if not is_address(value, ("http", "https")):
            raise ValueError("must be http:// or https:// with a host, such as https://api.dingtalk.com")
        return value

    @field_validator("dingtalk_card_content_key")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must name the template's streaming variable; leave it out for `content`")
        return value

    @field_validator("adapters")
    @classmethod
    def _has_adapters(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        engine = info.data.get("engine", "auto")
        if value is not None and engine not in ("auto", "slots"):
            raise ValueError(f"is for the engine slots; leave it out with {engine}")
        return value

    @field_validator("skills_dir", "adapters")
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError(f"there is no folder {value}")
        return value

    @field_validator("model")
    @classmethod
    def _is_a_model(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("engine") == "openai" and not value.strip():
            raise ValueError("with the engine openai, must be the model's name at its servers")
        return value

    @field_validator("openai_base_urls", mode="before")
    @classmethod
    def _read_base_urls(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("openai_base_urls")
    @classmethod
    def _are_base_urls(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        good = all(is_address(url, ("http", "https")) and not has_more_than_a_path(url) for url in value)
        if not good or len({url.rstrip("/") for url in value}) < len(value):
            raise ValueError("must be such as http://host:8000/v1, each once, with commas between")
        if info.data.get("engine") == "openai" and not value:
            raise ValueError("with the engine openai, must name a server such as http://host:8000/v1")
        return value

    @field_validator("openai_api_key")
    @classmethod
    def _is_a_key(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value()
        if not (key.isascii() and all(char.isprintable() and char != " " for char in key)):
            raise ValueError("must be printable ASCII without blanks: it travels in a header")
        return value

    @field_validator("openai_ca_file")
    @classmethod
    def _is_a_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @field_validator("test_installation")
    @classmethod
    def _is_for_tests(cls, value: bool, info: ValidationInfo) -> bool:
        ends = [info.data.get(f"dingtalk_{name}_endpoint", "") for name in ("openapi", "oapi")]
        if value and not all(urlsplit(end).hostname in LOOPBACK for end in ends):
            raise ValueError("is for a platform on this machine alone: both DINGTALK endpoints must name 127.0.0.1")
        return value

    @field_validator("die_between", mode="before")
    @classmethod
    def _read_die_between(cls, value: object) -> object:
        return read_orders(value) if isinstance(value, str) else value

    @field_validator("die_between")
    @classmethod
    def _dies_in_tests_alone(cls, value: tuple[Order, ...], info: ValidationInfo) -> tuple[Order, ...]:
        if value and not info.data.get("test_installation"):
            raise ValueError("is for test installations alone: leave it out")
        return value

    @property
    def record_is_cluster(self) -> bool:
        url = self.redis_url.get_secret_value()
        return bool(url) and read_address(url).is_cluster

    @property
    def holds_model(self) -> bool:
        """Whether the text workers load the model themselves."""
        return self.engine in ("auto", "slots", "paged")

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
        lines = [
            f"{variable(str(error['loc'][0]))}: {what_is_right(error['type'], error.get('ctx', {}))}"
            for error in exc.errors()
        ]
        raise BadSetting("\n".join(lines)) from exc


def unknown_variables() -> list[str]:
    """Names in the environment and in `.env` that look like settings and are none, sorted: misspelt ones, mostly."""
    named = {*os.environ, *dotenv_values(ENV_FILE, encoding="utf-8")}
    known = {*_variables(), *NO_SETTINGS}
    return sorted(name for name in named if name.upper().startswith("SWITCHYARD_") and name.upper() not in known)


def closest_variable(name: str) -> str:
    """The setting that a misspelt name probably means; empty if none is near."""
    offered = [variable(field) for field, known in Settings.model_fields.items() if known.description is not None]
    return next(iter(difflib.get_close_matches(name.upper(), offered, n=1, cutoff=0.75)), "")


def _variables() -> list[str]:
    return [variable(field) for field in Settings.model_fields]


def variable(field: str) -> str:
    """The environment variable of a field."""
    return field.upper() if field.upper().startswith("DINGTALK_") else f"SWITCHYARD_{field.upper()}"


def _named_numbers(text: str, names: Collection[str], how: str) -> dict[str, int]:
    """Read `name=number,name=number`. Raises ValueError with `how` it is written, or with the name that comes twice."""
    numbers: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in names or not (number.isascii() and number.isdigit() and len(number) < 10):
            raise ValueError(how)
        if name in numbers:
            raise ValueError(f"names {name} twice; {how}")
        numbers[name] = int(number)
    return numbers
