"""What the sandbox enforces, changeable while it runs."""

from dataclasses import dataclass, field, fields
from typing import Any

from sandbox.refusal import bad_param

TEMPLATE = "5a6db0c5-0000-4000-8000-000000000001.schema"


@dataclass(slots=True)
class Rules:
    """Limits and habits of the platform. Seconds unless said; 0 switches an interval or a limit off."""

    ticket_s: float = 90.0
    token_s: float = 7200.0
    webhook_s: float = 5400.0
    ping_s: float = 30.0
    keepalive_s: float = 25.0
    registered: bool = True
    # Calls a second to each route that needs a token; `qps_of` has the last word for a single route.
    qps: float = 0
    qps_of: dict[str, float] = field(default_factory=dict)
    # Calls that are left to the organisation before ApiCountLimitForOrg, counted from the start or the last reset.
    month: int = 0
    # Published templates and their streaming variables.
    templates: dict[str, list[str]] = field(default_factory=lambda: {TEMPLATE: ["content"]})
    # Both ways are documented for a repeated outTrackId: `success`, or 400 param.cardAlreadyExist (`exists`).
    repeated_create: str = "success"

    def change(self, changes: dict[str, Any]) -> None:
        """Apply changes by name, all or none. Raises Refused for a name or a type that does not fit."""
        known = {item.name for item in fields(self)}
        for name, value in changes.items():
            if name not in known:
                raise bad_param("sandbox.rules", f"{name} is no rule; there are {', '.join(sorted(known))}")
            if not _fits(getattr(self, name), value):
                raise bad_param("sandbox.rules", f"{name} cannot be {value!r}")
        for name, value in changes.items():
            setattr(self, name, value)


def _fits(current: object, value: object) -> bool:
    if isinstance(current, bool) or isinstance(value, bool):
        return isinstance(current, bool) and isinstance(value, bool)
    if isinstance(current, int | float):
        return isinstance(value, int | float) and value >= 0
    return isinstance(value, type(current))
