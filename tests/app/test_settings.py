"""What a setting may be. What `up` says of a wrong one stands in test_cli.py."""

from pathlib import Path

import pytest

from app.errors import BadSetting
from app.settings import Settings, closest_variable, load_settings, unknown_variables

FLOATS = [name.upper() for name, field in Settings.model_fields.items() if field.annotation is float]


@pytest.fixture(autouse=True)
def an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anybody's `.env`."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
@pytest.mark.parametrize("name", FLOATS)
def test_a_number_is_finite(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A lease without an end would hold its conversation for ever."""
    monkeypatch.setenv(f"SWITCHYARD_{name}", value)

    with pytest.raises(BadSetting, match=name):
        load_settings()


def test_there_are_numbers_to_check() -> None:
    assert {"LEASE_S", "DRAIN_S", "CARD_CALLS_PER_S", "ECHO_TOKENS_PER_S"} <= set(FLOATS)


@pytest.mark.parametrize(("value", "right"), [("5", True), ("4.9", False)])
def test_draining_takes_five_seconds_at_least(monkeypatch: pytest.MonkeyPatch, value: str, right: bool) -> None:
    monkeypatch.setenv("SWITCHYARD_DRAIN_S", value)

    if right:
        assert load_settings().drain_s == float(value)
    else:
        with pytest.raises(BadSetting, match="DRAIN_S"):
            load_settings()


def test_what_looks_like_a_setting_and_is_none_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = set(unknown_variables())
    (tmp_path / ".env").write_text("switchyard_slotz=2\nOTHER=1\n")
    for name in ("SWITCHYARD_LEASES", "SWITCHYARD_CI", "SWITCHYARD_LEASE_S", "SWITCHYARD_ALIVE_FD", "DINGTALK_X"):
        monkeypatch.setenv(name, "1")

    assert sorted(set(unknown_variables()) - before) == ["SWITCHYARD_LEASES", "switchyard_slotz"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("SWITCHYARD_LEASES", "SWITCHYARD_LEASE_S"),
        ("switchyard_slotz", "SWITCHYARD_SLOTS"),
        ("SWITCHYARD_DINGTALK_CLIENT_ID", "DINGTALK_CLIENT_ID"),
        ("SWITCHYARD_XYZZY_PLUGH", ""),
    ],
)
def test_the_setting_that_is_meant_is_found(written: str, meant: str) -> None:
    assert closest_variable(written) == meant


WRONG = [
    ("SWITCHYARD_REDIS_URL", "http://host", "redis://host:6379/0"),
    ("SWITCHYARD_REDIS_URL", "redis://host:port", "redis://host:6379/0"),
    ("SWITCHYARD_REDIS_URL", "redis://:hidden-word@host:70000/0", "redis://host:6379/0"),
    ("SWITCHYARD_REDIS_URL", "redis://:hidden/word@host:6379/0", "redis://host:6379/0"),
    ("SWITCHYARD_REDIS_URL", "unix://", "unix:///folder/socket"),
    ("SWITCHYARD_REDIS_URL", "redis+cluster://:hidden-word@", "redis+cluster://host:6379"),
    ("SWITCHYARD_REDIS_URL", "redis+cluster://host:1,host:port", "redis+cluster://host:6379"),
    ("SWITCHYARD_REDIS_URL", "redis+cluster://host:1/2", "redis+cluster://host:6379"),
    ("SWITCHYARD_BROKER_URL", "kafka://host", "amqp://user:password@host:5672/"),
    ("SWITCHYARD_BROKER_URL", "amqp://:hidden-word@host:0", "amqp://user:password@host:5672/"),
    ("DINGTALK_OPENAPI_ENDPOINT", "https://", "with a host"),
    ("DINGTALK_OAPI_ENDPOINT", "oapi.dingtalk.com", "http:// or https://"),
    ("DINGTALK_CARD_CONTENT_KEY", "", "`content`"),
    ("SWITCHYARD_POOLS", "text=1, text=2", "names text twice"),
    ("SWITCHYARD_POOLS", "text=65", "each 0 to 64"),
    ("SWITCHYARD_POOLS", "text=\u00b2", "each 0 to 64"),
    ("SWITCHYARD_MAX_RSS_MB", "web=1,web=2", "names web twice"),
    ("SWITCHYARD_LEASE_S", "0", "must be more than 0"),
    ("SWITCHYARD_DEDUPE_S", "31536001", "must be at most 31536000"),
    ("SWITCHYARD_DRAIN_S", "1e30", "must be at most 31536000"),
    ("SWITCHYARD_SLOTS", "0", "must be at least 1"),
    ("SWITCHYARD_SLOTS", "many", "must be a whole number"),
    ("SWITCHYARD_SLOTS", "1.5", "must be a whole number"),
    ("SWITCHYARD_SLOTS", "9" * 5000, "must be a whole number"),
    ("SWITCHYARD_LEASE_S", "soon", "must be a number"),
    ("SWITCHYARD_LEASE_S", "inf", "must be a finite number"),
    ("SWITCHYARD_OPENAI_BASE_URLS", "gpu1:8000", "such as http://host:8000/v1"),
    ("SWITCHYARD_OPENAI_BASE_URLS", "http://me:word@gpu1/v1", "such as http://host:8000/v1"),
    ("SWITCHYARD_OPENAI_BASE_URLS", "http://gpu1/v1?key=word", "such as http://host:8000/v1"),
    ("SWITCHYARD_OPENAI_BASE_URLS", "http://gpu1/v1,http://gpu1/v1/", "each once"),
    ("SWITCHYARD_OPENAI_API_KEY", "two words", "printable ASCII"),
    ("SWITCHYARD_OPENAI_CA_FILE", "/nowhere.pem", "there is no file"),
    ("SWITCHYARD_ENGINE", "steam", "must be 'auto', 'slots', 'paged', 'openai' or 'echo'"),
]


@pytest.mark.parametrize(("name", "value", "right"), WRONG)
def test_a_wrong_value_is_named_with_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, right: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(BadSetting) as refused:
        load_settings()

    assert str(refused.value).startswith(f"{name}: ")
    assert right in str(refused.value)
    assert not any(foreign in str(refused.value) for foreign in ("Value error", "Input should", "hidden", "\n"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SWITCHYARD_REDIS_URL", "rediss://:word@[::1]:6380/1"),
        ("SWITCHYARD_REDIS_URL", "unix:///run/valkey.sock?db=1"),
        ("SWITCHYARD_REDIS_URL", "redis+cluster://:word@first:7000,[::1]:7001,third/0"),
        ("SWITCHYARD_REDIS_URL", "rediss+cluster://user:word@host?ssl_ca_certs=/ca.pem"),
        ("SWITCHYARD_REDIS_URL", ""),
        ("SWITCHYARD_BROKER_URL", "amqps://user:word@host//"),
        ("DINGTALK_OPENAPI_ENDPOINT", "http://127.0.0.1:8081"),
        ("SWITCHYARD_OPENAI_BASE_URLS", "http://gpu1:8000/v1, https://gpu2/llm/v1/,"),
        ("SWITCHYARD_CONTEXT_S", "31536000"),
    ],
)
def test_a_right_value_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    load_settings()


def test_the_engine_openai_needs_servers_and_the_name_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHYARD_ENGINE", "openai")

    with pytest.raises(BadSetting) as refused:
        load_settings()

    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == [
        "SWITCHYARD_MODEL",
        "SWITCHYARD_OPENAI_BASE_URLS",
    ]


@pytest.mark.parametrize(("engine", "right"), [("auto", True), ("slots", True), ("paged", False), ("echo", False)])
def test_adapters_are_for_the_engine_that_runs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str, right: bool
) -> None:
    """Else a skill's request for one would be refused, message by message."""
    monkeypatch.setenv("SWITCHYARD_ENGINE", engine)
    monkeypatch.setenv("SWITCHYARD_ADAPTERS", str(tmp_path))

    if right:
        assert load_settings().adapters == tmp_path
    else:
        with pytest.raises(BadSetting, match=f"SWITCHYARD_ADAPTERS: .*leave it out with {engine}"):
            load_settings()


def test_the_folder_of_adapters_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWITCHYARD_ADAPTERS", str(tmp_path / "none"))

    with pytest.raises(BadSetting, match="SWITCHYARD_ADAPTERS"):
        load_settings()
