"""Every error of ours, on one page. The parent says what the caller does; the name says what happened.

SwitchyardError
├── Transient                 nothing is decided: try again
│   ├── StoreUnavailable      the record did not answer; it may hold the write all the same
│   │   └── StoreFull         ... or takes nothing new: no memory or no disk left
│   ├── BrokerUnavailable     the broker did not answer, or refuses for now; what must go on is due in the record
│   ├── PlatformBusy          the platform proved that it refused for now; `retry_after_s` says how long
│   ├── OutcomeUnknown        the platform may have done it: repeat the same call with the same key
│   ├── EngineStopped         the engine died or is closing; the turn is done again
│   ├── EngineUnavailable     no server or no room for an adapter now; `retry_after_s` says when to try again
│   └── Drained               this process is leaving; another one does it
├── Permanent                 trying again brings the same
│   ├── MalformedFrame        a platform sent what we cannot read
│   ├── PlatformRefused       the platform proved that it will not do this; another way may be tried
│   │   └── NoCard            ... to open a card: there is none to end
│   ├── ReplyGivenUp          the outcome stayed unknown, and each repeat may be seen
│   ├── BadSetting            a setting is wrong; the text says which and what would be right
│   ├── RequestRejected       the engine can never run this request
│   ├── BadAdapter            an adapter's folder cannot be run with this model
│   ├── BadPicture            an attachment is not what it says, or larger than we unpack
│   ├── SkillBroken           a skill raised, or returned what is no result
│   ├── NoSuchLetter          no dead letter has this name, or several have
│   ├── NotReplayed           a dead letter stays one: its conversation is full, or it cannot be read
│   └── AlreadyRunning        another supervisor holds the data folder
└── LeaseLost                 an instruction: somebody else has this conversation now; stop, write nothing
"""

from typing import Literal


class SwitchyardError(Exception):
    """Base of all errors that this project raises."""


class Transient(SwitchyardError):
    """Nothing is decided: trying again is right."""


class Permanent(SwitchyardError):
    """Trying again brings the same result."""


class StoreUnavailable(Transient):
    """The record did not answer in time. It may hold the write all the same: repeat the same call."""


class StoreFull(StoreUnavailable):
    """The record takes nothing new, for want of memory or disk. What it holds goes on, and makes room."""

    def __init__(self, what: Literal["memory", "disk"], reason: str) -> None:
        super().__init__(reason)
        self.what: Literal["memory", "disk"] = what


class BrokerUnavailable(Transient):
    """The broker did not answer in time, or refused. Nobody needs it now: what must go on is due in the record."""


class PlatformBusy(Transient):
    """The platform refused for now (quota, throttling). Nothing was done there."""

    def __init__(self, reason: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class OutcomeUnknown(Transient):
    """A call to the platform timed out or answered 5xx: it may have been done. Repeat it with the same key."""


class EngineStopped(Transient):
    """The engine died or is closing while it held the request."""


class EngineUnavailable(Transient):
    """No model server takes this request now (busy, not reached, a wrong setting), or there is no room for its adapter.

    Nothing of it was begun.
    """

    def __init__(self, reason: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Drained(Transient):
    """This process is leaving and hands its work back; nothing is wrong with the work."""


class MalformedFrame(Permanent):
    """A platform's frame cannot be read; a redelivery would bring the same bytes."""


class PlatformRefused(Permanent):
    """The platform proved that it will not do this. `code` is its own word for the reason."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code


class NoCard(PlatformRefused):
    """The platform refused to open a card: there is none to end."""


class ReplyGivenUp(Permanent):
    """The outcome of a call without an idempotency key stayed unknown: each further repeat may be seen."""


class BadSetting(Permanent):
    """A setting is wrong. The text names it and says what would be right."""


class RequestRejected(Permanent):
    """The engine can never run this request: too long, empty, or with values out of range."""


class BadAdapter(Permanent):
    """An adapter cannot be run with this model, or there is none. The text says what stands in the way."""


class BadPicture(Permanent):
    """An attachment is not what it says it is, or larger than we are willing to unpack."""


class SkillBroken(Permanent):
    """A skill raised, or returned something that is no result."""


class NoSuchLetter(Permanent):
    """No dead letter has this name, or several have."""


class NotReplayed(Permanent):
    """A dead letter cannot be put back now: it stays where it is."""


class AlreadyRunning(Permanent):
    """Another supervisor holds the data folder."""


class LeaseLost(SwitchyardError):
    """Somebody else holds this conversation now: stop the work and write nothing."""
