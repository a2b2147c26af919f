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
