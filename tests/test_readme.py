"""What the READMEs say is what the code does, as far as a program can tell."""

import re
from pathlib import Path

import pytest

from app.settings_table import settings_table

ROOT = Path(__file__).parents[1]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [README, CHINESE, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def between_markers(page: Path, name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"{page.name} has no place for {name}"
    return found.group(1).strip()


def names_and_defaults(table: str) -> list[tuple[str, str]]:
    cells = [[cell.strip() for cell in row.split("|")] for row in table.splitlines()[2:]]
    return [(row[1], row[2]) for row in cells]


def test_the_settings_table_is_the_one_that_the_code_prints() -> None:
    """`python -m app.settings_table` prints it."""
    assert between_markers(README, "settings") == settings_table()


def test_the_chinese_table_has_the_same_settings_each_with_a_line() -> None:
    """Its words are translated by hand; names and defaults must not drift."""
    table = between_markers(CHINESE, "settings")

    assert names_and_defaults(table) == names_and_defaults(settings_table())
    assert all(row.split("|")[3].strip() for row in table.splitlines())


def test_both_readmes_have_a_place_for_the_numbers() -> None:
    assert between_markers(README, "numbers") == between_markers(CHINESE, "numbers")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    """A misspelt variable is ignored without a word."""
    named = set(re.findall(r"\b(?:SWITCHYARD|DINGTALK)_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))

    assert named <= set(re.findall(r"\b(?:SWITCHYARD|DINGTALK)_[A-Z_]+\b", settings_table()))
