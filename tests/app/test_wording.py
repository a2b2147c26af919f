"""What the assistant says itself is whole in every language."""

import json
import re
from pathlib import Path
from string import Formatter

import pytest

from app.errors import BadSetting
from app.wording import LOCALES, Wording

ROOT = Path(__file__).parents[2]


def fields_of(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}


def test_every_language_has_the_same_keys_with_the_same_fields() -> None:
    """A sentence that is missing in one language would fail a turn there and nowhere else."""
    english = {key: fields_of(sentence) for key, sentence in Wording("en").sentences().items()}

    chinese = {key: fields_of(sentence) for key, sentence in Wording("zh-CN").sentences().items()}

    assert LOCALES == ("en", "zh-CN")
    assert chinese == english


@pytest.mark.parametrize("locale", LOCALES)
def test_no_key_stands_twice(locale: str) -> None:
    """The later one would win without a word."""

    def once(pairs: list[tuple[str, str]]) -> dict[str, str]:
        keys = [key for key, _ in pairs]
        assert sorted(keys) == sorted(set(keys))
        return dict(pairs)

    written = (ROOT / "app" / "wording" / f"{locale}.json").read_text(encoding="utf-8")

    assert json.loads(written, object_pairs_hook=once) == Wording(locale).sentences()


def test_a_field_is_filled_in_and_braces_of_a_person_are_left_alone() -> None:
    """A person may write braces; they are no template."""
    said = Wording("en").say("picture_question", text="{count}", question="{0}?")

    assert said.endswith("{count}\n\n{0}?")


def test_no_sentence_is_blank() -> None:
    for locale in LOCALES:
        assert all(sentence.strip() for sentence in Wording(locale).sentences().values())


def test_an_unknown_language_is_named_with_what_would_be_right() -> None:
    with pytest.raises(BadSetting, match=r"SWITCHYARD_LOCALE.*'fr'.*en, zh-CN"):
        Wording("fr")


def test_an_unknown_key_is_an_error_and_no_silence() -> None:
    with pytest.raises(KeyError):
        Wording("en").say("no_such_key")


def test_every_sentence_that_the_code_says_exists() -> None:
    """A misspelt key would be found by the first person who should have been told."""
    files = [file for folder in ("app", "workers", "skills") for file in (ROOT / folder).rglob("*.py")]

    said = {
        key for file in files for key in re.findall(r"\b(?:say|wording)\(\s*['\"](\w+)['\"]", file.read_text("utf-8"))
    }

    assert {"thinking", "empty_text"} <= said
    assert said <= set(Wording("en").sentences())
