"""What the assistant itself says to people: one JSON file a language, the same keys and fields in each."""

import json
from pathlib import Path

from app.errors import BadSetting

_FOLDER = Path(__file__).with_suffix("")  # app/wording/
LOCALES: tuple[str, ...] = tuple(sorted(file.stem for file in _FOLDER.glob("*.json"))) if _FOLDER.is_dir() else ()
FIRST_CHARACTERS = 40  # of a question that is quoted


class Wording:
    """The sentences of one language. Immutable, safe from any thread."""

    def __init__(self, locale: str) -> None:
        """Read the sentences of a locale, "zh-CN" or "en". Raises BadSetting for any other."""
        if locale not in LOCALES:
            raise BadSetting(f"SWITCHYARD_LOCALE: no sentences for {locale!r}, there are {', '.join(LOCALES)}")
        self.locale = locale
        self._sentences: dict[str, str] = json.loads((_FOLDER / f"{locale}.json").read_text(encoding="utf-8"))

    def say(self, key: str, **fields: object) -> str:
        """The sentence of this key with its fields filled in. Raises KeyError for an unknown key or a missing field."""
        return self._sentences[key].format_map(fields)

    def late(self, question: str, text: str) -> str:
        """A late answer that begins with what it is about: the first words of the question, if it had any."""
        words = " ".join(question.split())
        if not words:
            return self.say("late_reply", text=text)
        beginning = words if len(words) <= FIRST_CHARACTERS else f"{words[:FIRST_CHARACTERS].rstrip()}…"
        return self.say("late_answer", question=beginning, text=text)

    def sentences(self) -> dict[str, str]:
        """Every key with its sentence, fields not filled in."""
        return dict(self._sentences)
