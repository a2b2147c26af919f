"""What a check of `switchyard doctor` found."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One line: what was checked, what was found, and the mend of a fault."""

    check: str
    verdict: Verdict
    says: str
    mend: str = ""

    def line(self) -> str:
        """As one line for a terminal."""
        return f"{self.verdict:<8}{self.check}: {self.says}" + (f" -> {self.mend}" if self.mend else "")
