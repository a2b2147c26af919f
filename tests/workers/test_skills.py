"""Skills are found, chosen and run; a broken one costs nobody else anything."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

import pytest

from app.errors import BadPicture, BadSetting, EngineStopped, LeaseLost, PlatformRefused, SkillBroken
from app.message import Address, Kind, Message
from skills.sdk import Answer, Context, Forward
from workers.skills import Skill, Skills, load_skills, normalised

# The class that the documentation shows: no base class, no declaration.
PASTED = """
class SkillPlugin:
    def __init__(self, context): self.context = context
    def pre_process(self, message): return message
    def execute(self, processed_msg): return {"response": "default"}
    def post_process(self, result): return result
"""
NO_CONTEXT = cast(Context, None)  # these skills ask nothing of their turn


def a_message(text: str = "", kind: Kind = "text") -> Message:
    address = Address(channel="dingtalk", robot="bot", chat="cid1", group=False)
    return Message(
        id="dingtalk:bot:m1", conversation="dingtalk:bot:cid1:ann", kind=kind, sent_at=0.0, address=address, text=text
    )


def name_of(skill: Skill | None) -> str:
    assert skill is not None
    return skill.name


def write(folder: Path, name: str, source: str) -> None:
    (folder / name).write_text(dedent(source), encoding="utf-8")


def loaded_from(folder: Path, source: str, name: str = "mine.py") -> Skills:
    write(folder, name, source)
    return load_skills([folder])


def run(skills: Skills, text: str) -> Answer | Forward:
    message = a_message(text)
    skill = skills.choose(message)
    assert skill is not None
    return skills.run(skill, message, NO_CONTEXT)


def executing(body: str) -> str:
    """A skill whose `execute` has this body."""
    return PASTED.replace('return {"response": "default"}', body)


def test_the_built_in_skills_are_all_there() -> None:
    skills = load_skills()

    assert [skill.name for skill in skills.all] == ["chat", "help", "new", "ocr", "sorry", "status"]
    assert {skill.name: skill.queue for skill in skills.all if skill.queue != "default"} == {
        "chat": "text",
        "ocr": "image",
    }


def test_each_kind_of_message_has_its_skill() -> None:
    skills = load_skills()

    chosen = [name_of(skills.choose(a_message("hi", kind))) for kind in ("text", "picture", "unsupported")]

    assert chosen == ["chat", "ocr", "sorry"]


@pytest.mark.parametrize("text", ["/etc/passwd", "/ new", "/", "what does /new do", "/新", ""])
def test_what_only_looks_like_a_command_is_something_to_talk_about(text: str) -> None:
    assert name_of(load_skills().choose(a_message(text))) == "chat"


def test_only_a_text_can_be_a_command() -> None:
    """A picture may come with any words."""
    assert name_of(load_skills().choose(a_message("/new", "picture"))) == "ocr"


def test_a_command_goes_before_the_kind_and_an_unknown_one_gets_help() -> None:
    skills = load_skills()

    chosen = [name_of(skills.choose(a_message(text))) for text in ("/new", "/new\nplease", "/nonsense")]

    assert chosen == ["new", "new", "help"]


def test_a_kind_that_nobody_serves_has_no_skill() -> None:
    assert Skills([]).choose(a_message("hi")) is None


def test_a_pasted_class_that_declares_nothing_answers_the_name_of_its_file(tmp_path: Path) -> None:
    """The three methods are all that a skill needs."""
    skills = loaded_from(tmp_path, PASTED, "weather.py")

    assert run(skills, "/weather today") == Answer(text="default")
    assert skills.commands("en")["weather"] == "weather"


def test_a_pasted_class_works_in_the_folder_of_the_built_in_skills(tmp_path: Path) -> None:
    """`skills/` of a checkout is where people paste first."""
    package = tmp_path / "skills"
    package.mkdir()
    for file in Path("skills").glob("*.py"):
        write(package, file.name, file.read_text(encoding="utf-8"))
    write(package, "pasted.py", PASTED)
    program = "from workers.skills import load_skills; print(sorted(load_skills().commands('en')))"

    printed = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path.cwd())!r}]; {program}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout

    assert printed.strip() == "['help', 'new', 'pasted', 'status']"


def test_a_persons_own_skill_goes_before_a_built_in_one(tmp_path: Path) -> None:
    skills = loaded_from(tmp_path, PASTED + "    kinds = 'text'\n    commands = ['/new']\n")

    assert [name_of(skills.choose(a_message(text))) for text in ("hi", "/new", "/help")] == ["mine", "mine", "help"]


@pytest.mark.parametrize(
    "source",
    [
        "this is no Python",
        "import a_module_that_is_not_there",
        "raise RuntimeError('at import')",
        "import sys; sys.exit(3)",
        PASTED + "    queue = 'nowhere'\n",
        PASTED + "    commands = ['Two Words']\n",
        PASTED + "    time_limit_s = -1\n",
        PASTED + "    kinds = 7\n",
        PASTED + "    roles = ('boss',)\n",  # nothing enforces them: it would be open to everybody
    ],
)
def test_a_broken_file_is_named_and_skipped(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One bad file must not take the house down, and its author must find it."""
    write(tmp_path, "good.py", PASTED)

    skills = loaded_from(tmp_path, source, "bad.py")

    assert "good" in skills.commands("en")
    assert "bad" not in skills.commands("en")
    assert "bad.py" in "".join(capsys.readouterr())


def test_only_classes_that_the_file_defines_and_that_can_be_made_are_skills(tmp_path: Path) -> None:
    """Imported classes, private ones and those with another constructor are the author's own affair."""
    skills = loaded_from(
        tmp_path,
        """
        from abc import ABC, abstractmethod
        from dataclasses import dataclass
        from skills.sdk import SkillPlugin

        @dataclass
        class Half:
            pre_process = execute = print

        class _Private(SkillPlugin): ...

        class TwoArguments(SkillPlugin):
            def __init__(self, context, more): ...

        class Abstract(SkillPlugin, ABC):
            @abstractmethod
            def execute(self, processed): ...

        class Real(SkillPlugin):
            name = "real"
        """,
    )

    assert [skill.name for skill in skills.all if "mine" in skill.make.__module__] == ["real"]


def test_a_file_with_a_leading_underscore_is_no_skill(tmp_path: Path) -> None:
    skills = loaded_from(tmp_path, PASTED, "_shared.py")

    assert "_shared" not in skills.commands("en")


def test_a_folder_that_does_not_exist_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="SWITCHYARD_SKILLS_DIR"):
        load_skills([tmp_path / "nowhere"])


def test_a_module_of_the_same_name_is_not_hidden_by_a_skill(tmp_path: Path) -> None:
    """A skill called json.py must not become everybody's json."""
    skills = loaded_from(tmp_path, PASTED, "json.py")

    assert run(skills, "/json") == Answer(text="default")
    assert sys.modules["json"].dumps([]) == "[]"


def test_an_installed_package_brings_skills_through_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "installed_weather.py", PASTED)
    info = tmp_path / "installed_weather-1.0.dist-info"
    info.mkdir()
    write(info, "METADATA", "Metadata-Version: 2.1\nName: installed-weather\nVersion: 1.0\n")
    lines = "[switchyard.skills]\nrain = installed_weather\nsnow = installed_weather:SkillPlugin\ngone = not_there\n"
    write(info, "entry_points.txt", lines)
    monkeypatch.syspath_prepend(str(tmp_path))

    skills = load_skills()

    assert {"rain", "snow"} <= set(skills.commands("en"))
    assert run(skills, "/rain") == Answer(text="default")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("text", Answer(text="text")),
        ({"response": "text", "more": 1}, Answer(text="text")),
        (Answer(text="text", forget=True), Answer(text="text", forget=True)),
        (Forward(queue="text", text="text"), Forward(queue="text", text="text")),
    ],
)
def test_four_kinds_of_result_are_results(result: object, expected: Answer | Forward) -> None:
    assert normalised(result, "mine") == expected


@pytest.mark.parametrize(
    "result",
    [
        None,
        7,
        b"bytes",
        ["text"],
        {},
        {"response": 7},
        "",
        " \n ",
        Answer(text=""),
        Answer(text=cast(Any, None)),
        Forward(queue="nowhere", text="x"),
        Forward(queue="text", text=" "),
    ],
)
def test_everything_else_is_a_broken_skill(result: object) -> None:
    """Nobody may get an empty message or `None` as an answer."""
    with pytest.raises(SkillBroken, match="mine"):
        normalised(result, "mine")


def test_a_character_that_cannot_be_written_is_replaced() -> None:
    """Half of a surrogate pair would fail later, where the reply is stored."""
    assert normalised("a\ud800b", "mine") == Answer(text="a?b")


@pytest.mark.parametrize("body", ["1 / 0", "raise SystemExit(1)", "return self.execute(processed_msg)", "assert False"])
def test_whatever_a_skill_raises_is_its_own_fault(tmp_path: Path, body: str) -> None:
    """SystemExit too: it would shut the worker down with everybody's turns."""
    skills = loaded_from(tmp_path, executing(body))

    with pytest.raises(SkillBroken, match="skill mine raised") as raised:
        run(skills, "/mine a secret")

    assert raised.value.__cause__ is not None
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("error", [EngineStopped, LeaseLost, BadPicture, PlatformRefused])
def test_what_the_turn_must_hear_passes_through(tmp_path: Path, error: type[Exception]) -> None:
    """These say what to do with the turn; a skill's mistake they are not."""
    body = f"from app.errors import {error.__name__}; raise {error.__name__}('as it came')"
    skills = loaded_from(tmp_path, executing(body))

    with pytest.raises(error, match="as it came"):
        run(skills, "/mine")


def test_a_summary_is_given_in_the_persons_language_or_in_one_that_there_is(tmp_path: Path) -> None:
    write(tmp_path, "both.py", PASTED + "    summary = {'en': 'in English', 'zh-CN': '中文'}\n")
    write(tmp_path, "chinese.py", PASTED + "    summary = {'zh-CN': '只有中文'}\n")
    write(tmp_path, "plain.py", PASTED + "    summary = 'one text for all'\n")
    skills = load_skills([tmp_path])

    english, chinese = skills.commands("en"), skills.commands("zh-CN")

    assert (english["both"], chinese["both"]) == ("in English", "中文")
    assert (english["chinese"], chinese["plain"]) == ("只有中文", "one text for all")
