"""Where a card can be shown: `dtv1.card//IM_GROUP.<conversation>` and `dtv1.card//IM_ROBOT.<staff id>`."""

from dataclasses import dataclass
from typing import Any

from sandbox.bounded import Bounded
from sandbox.refusal import bad_param

Json = dict[str, Any]

_PREFIX = "dtv1.card//"
_MODELS = {"IM_GROUP": "imGroupOpenDeliverModel", "IM_ROBOT": "imRobotOpenDeliverModel"}


@dataclass(frozen=True, slots=True)
class Space:
    """One place: a group, or one person's talk with the robot. `person` is a staff id, or "" for a group."""

    kind: str
    id: str
    conversation: str
    person: str

    def shown(self) -> Json:
        """Who sees what is shown here, as fields of an event."""
        return {"conversation": self.conversation, "person": self.person}


class Spaces:
    """Knows which conversation is whose, by what people wrote before."""

    def __init__(self, robot_code: str) -> None:
        self._robot_code = robot_code
        self._talks: Bounded[str, str] = Bounded(1_000_000)

    def learn(self, staff: str, conversation: str) -> None:
        """This person's talk with the robot is that conversation."""
        self._talks[staff] = conversation

    def talk(self, staff: str) -> str:
        """The conversation of a person with the robot; "" if they never wrote."""
        return self._talks.get(staff, "")

    def read(self, body: Json) -> list[Space]:
        """The spaces of a delivery. Raises Refused if they are missing or do not go with their models."""
        whole = body.get("openSpaceId")
        if not isinstance(whole, str) or not whole:
            raise bad_param("param.openSpaceIdEmpty")
        return [self._space(part, body) for part in whole.split(";")]

    def _space(self, part: str, body: Json) -> Space:
        kind, _, space_id = part.removeprefix(_PREFIX).partition(".")
        if not part.startswith(_PREFIX) or kind not in _MODELS or not space_id:
            raise bad_param("param.openSpaceIdInvalid", part)
        model = body.get(_MODELS[kind])
        if not isinstance(model, dict):
            raise bad_param("param.openDeliverModelEmpty", _MODELS[kind])
        robot_code = model.get("robotCode", self._robot_code if kind == "IM_ROBOT" else None)
        if robot_code != self._robot_code:
            raise bad_param("param.openDeliverModelError", "robotCode")
        if kind == "IM_GROUP":
            return Space(kind, space_id, conversation=space_id, person="")
        return Space(kind, space_id, conversation=self.talk(space_id), person=space_id)
