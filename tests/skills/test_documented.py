"""The skills in docs/skills.md work as they stand there."""

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from skills.sdk import Answer, Forward
from tests.skills.standin import StandInContext, a_message
from workers.skills import Skills, load_skills

PAGE = Path(__file__).parents[2] / "docs" / "skills.md"


@pytest.fixture
def documented(tmp_path: Path) -> Skills:
    """Both examples, each in the file that the page tells to save it as."""
    complete, bare = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "days.py").write_text(complete, encoding="utf-8")
    (tmp_path / "weather.py").write_text(bare, encoding="utf-8")
    return load_skills([tmp_path])


def answer(skills: Skills, text: str) -> Answer | Forward:
    a_thursday = datetime(2026, 12, 17, 12, tzinfo=UTC).timestamp()
    message = msgspec.structs.replace(a_message(text), sent_at=a_thursday)
    skill = skills.choose(message)
    assert skill is not None
    return skills.run(skill, message, StandInContext())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/days 2026-12-24", "Working days until 2026-12-24: 5"),
        ("/days 2020-01-01", "Working days until 2020-01-01: 0"),
        ("/days", "Write it like this: /days 2026-12-24"),
        ("/days soon", "Write it like this: /days 2026-12-24"),
    ],
)
def test_the_complete_skill_answers_as_the_page_says(documented: Skills, text: str, expected: str) -> None:
    assert answer(documented, text) == Answer(text=expected)


def test_the_bare_class_answers_the_name_of_its_file(documented: Skills) -> None:
    assert answer(documented, "/weather") == Answer(text="default")
    assert documented.commands("zh-CN")["days"] == "到某一天还有几个工作日"


def test_the_page_names_every_attribute_that_a_skill_can_declare() -> None:
    """An attribute that is not on the page is one that nobody finds."""
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    declared = {field for field in load_skills().all[0].__dataclass_fields__ if field != "make"}

    assert declared <= set(rows)
