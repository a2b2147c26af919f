"""Find the skills, choose the one for a message, run its three steps. A broken skill costs nobody else anything."""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog

import skills as builtin
from app.errors import BadPicture, BadSetting, LeaseLost, PlatformRefused, SkillBroken, Transient
from app.message import Message
from app.routing import command_of
from skills.sdk import Answer, Context, Forward

STEPS = ("pre_process", "execute", "post_process")
QUEUES = ("text", "image", "default")
ENTRY_POINTS = "switchyard.skills"
_NO_SKILLS = ("sdk",)  # modules of the package `skills` that hold no skill

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """What a skill declares, and how to make one for a turn."""

    name: str
    make: Callable[[Context], Any]
    version: str = "1"
    kinds: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    queue: str = "default"
    time_limit_s: float | None = None
    remembers: bool = False
    summary: Mapping[str, str]


class Skills:
    """All skills of a process, in the order of loading: of two that claim the same, the later one has it."""

    def __init__(self, loaded: Iterable[Skill]) -> None:
        self.all: tuple[Skill, ...] = tuple(loaded)
        self._by_command = {command: skill for skill in self.all for command in skill.commands}
        self._by_kind = {kind: skill for skill in self.all for kind in skill.kinds}

    def choose(self, message: Message) -> Skill | None:
        """The skill for a message: by its command, then by its kind. `help` answers a command that nobody has."""
        if message.kind == "text" and (command := command_of(message.text)):
            return self._by_command.get(command) or self._by_command.get("help")
        return self._by_kind.get(message.kind)

    def commands(self, locale: str) -> dict[str, str]:
        """Every command with one line about it in this locale, by name."""
        return {command: summary_in(self._by_command[command], locale) for command in sorted(self._by_command)}

    def run(self, skill: Skill, message: Message, context: Context) -> Answer | Forward:
        """Run the three steps of a skill for one message.

        Raises:
            SkillBroken: the skill raised, or its result is none. The cause may quote the person: log its type alone.
            Transient, LeaseLost, BadPicture, PlatformRefused: as they came; the turn knows what to do.
        """
        try:
            plugin = skill.make(context)
            result = plugin.post_process(plugin.execute(plugin.pre_process(message)))
        except (Transient, LeaseLost, BadPicture, PlatformRefused, SkillBroken):
            raise
        except (Exception, SystemExit) as exc:  # SystemExit would shut the whole worker down
            raise SkillBroken(f"skill {skill.name} raised {type(exc).__name__}") from exc
        return normalised(result, skill.name)


def summary_in(skill: Skill, locale: str) -> str:
    """One line about a skill: in the locale, else in English, else in whatever language there is, else its name."""
    return skill.summary.get(locale) or skill.summary.get("en") or next(iter(skill.summary.values()), skill.name)


def normalised(result: object, name: str) -> Answer | Forward:
    """A skill's result as an Answer or a Forward. Raises SkillBroken for what is neither, and for an empty text."""
    match result:
        case str(text) | {"response": str(text)}:
            answer: Answer | Forward = Answer(text=_writable(text))
        case Answer(text=str(text)) | Forward(text=str(text)):
            answer = replace(result, text=_writable(text))
        case _:
            raise SkillBroken(f"skill {name} returned {type(result).__name__}, which is no result")
    if not answer.text.strip():
        raise SkillBroken(f"skill {name} returned an empty text")
    if isinstance(answer, Forward) and answer.queue not in QUEUES:
        raise SkillBroken(f"skill {name} forwards to a queue that does not exist")
    return answer


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which no encoding can write."""
    return text.encode(errors="replace").decode()


def load_skills(folders: Sequence[Path] = ()) -> Skills:
    """Load the built-in skills, those in a user's folders, and those of installed packages, in this order.

    A file that cannot be loaded is logged with its name and left out. Raises BadSetting if a folder is none.
    """
    found: list[Skill] = []
    for name, load in _sources(folders):
        try:
            skills = load()
        except (Exception, SystemExit):  # somebody else's code: whatever it raises, the others still work
            log.exception("skill skipped", file=name)
            continue
        if not skills:
            log.warning("no skill in this file", file=name)
        found += skills
    return Skills(found)


def _sources(folders: Sequence[Path]) -> Iterator[tuple[str, Callable[[], list[Skill]]]]:
    """Where skills may be: a name for the log, and a function that loads them."""
    for module in sorted(module.name for module in pkgutil.iter_modules(builtin.__path__)):
        if module not in _NO_SKILLS and not module.startswith("_"):
            yield f"skills/{module}.py", partial(_built_in, module)
    for number, folder in enumerate(folders):
        if not folder.is_dir():
            raise BadSetting(f"SWITCHYARD_SKILLS_DIR: there is no folder {folder}")
        for file in sorted(folder.glob("[!_]*.py")):
            yield file.name, partial(_from_file, file, f"_switchyard_skills_{number}_{file.stem}")
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        yield f"entry point {point.name}", partial(_from_entry_point, point)


def _built_in(name: str) -> list[Skill]:
    return skills_in(importlib.import_module(f"{builtin.__name__}.{name}"), name)


def _from_file(file: Path, module_name: str) -> list[Skill]:
    """Load a file under a private name, so that it can neither hide a module nor be hidden by one."""
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickling look a class's module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return skills_in(module, file.stem)


def _from_entry_point(point: EntryPoint) -> list[Skill]:
    """An entry point names a module, or one class in it."""
    loaded = point.load()
    return skills_in(loaded, point.name) if isinstance(loaded, ModuleType) else [declared(loaded, point.name)]


def skills_in(module: ModuleType, file: str) -> list[Skill]:
    """Every skill that a module defines, in the order of the file. Raises BadSetting for a wrong declaration."""
    return [declared(cls, file) for cls in vars(module).values() if is_skill(cls, module.__name__)]


def is_skill(thing: object, module: str) -> bool:
    """Whether it is a class of this module with the three steps and a constructor of one argument."""
    if not inspect.isclass(thing) or thing.__module__ != module or thing.__name__.startswith("_"):
        return False
    if inspect.isabstract(thing) or not all(callable(getattr(thing, step, None)) for step in STEPS):
        return False
    try:
        inspect.signature(thing).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def declared(cls: type[Any], file: str) -> Skill:
    """Read what a class declares. A class that declares nothing answers the command `/<file>`."""
    kinds, commands = _words(cls, "kinds"), tuple(word.removeprefix("/") for word in _words(cls, "commands"))
    skill = Skill(
        name=str(getattr(cls, "name", "") or file),
        make=cls,
        version=str(getattr(cls, "version", "1")),
        kinds=kinds,
        commands=commands or (() if kinds else (file.lower(),)),
        queue=str(getattr(cls, "queue", "default")),
        time_limit_s=getattr(cls, "time_limit_s", None),
        remembers=bool(getattr(cls, "remembers", False)),
        summary=_summary(cls),
    )
    _check(skill, cls)
    return skill


def _words(cls: type[Any], attribute: str) -> tuple[str, ...]:
    """A declared list of words; one word alone is a list of one, not of its letters."""
    value = getattr(cls, attribute, ())
    return (value,) if isinstance(value, str) else tuple(str(word) for word in value)


def _summary(cls: type[Any]) -> Mapping[str, str]:
    value = getattr(cls, "summary", {})
    return {"en": value} if isinstance(value, str) else dict(value)


def _check(skill: Skill, cls: type[Any]) -> None:
    if getattr(cls, "roles", None):  # whoever wrote it expects that others are kept out
        raise BadSetting(f"skill {skill.name}: roles are not supported, it would be open to everybody; leave them out")
    for command in skill.commands:
        if command_of(f"/{command}") != command:
            raise BadSetting(f"skill {skill.name}: no command can be called {command!r}; a-z first, then a-z 0-9 _ -")
    if skill.queue not in QUEUES:
        raise BadSetting(f"skill {skill.name}: queue {skill.queue!r} is none of {', '.join(QUEUES)}")
    limit = skill.time_limit_s
    if limit is not None and (not isinstance(limit, (int, float)) or limit <= 0):
        raise BadSetting(f"skill {skill.name}: time_limit_s must be a number of seconds above 0")
