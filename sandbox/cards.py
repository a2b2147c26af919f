"""AI cards: created, delivered, typed into, finished; with the rules by which the platform refuses."""

from dataclasses import dataclass, field
from typing import Any

from sandbox.bounded import Bounded
from sandbox.journal import Journal
from sandbox.refusal import Refused, bad_param
from sandbox.rules import Rules
from sandbox.spaces import Space, Spaces

Json = dict[str, Any]

DONE = {"success": True, "result": True}
ENDS = {"3": "finished", "5": "failed"}


@dataclass(slots=True)
class Card:
    """One card. `state` is processing, inputting, finished or failed; `spaces` are where people see it."""

    id: str
    template: str
    keys: list[str]
    params: dict[str, str]
    state: str = "processing"
    spaces: list[Space] = field(default_factory=list)
    delivered: list[Json] = field(default_factory=list)
    guids: set[str] = field(default_factory=set)
    updates: int = 0
    ended_with: dict[str, str] | None = None  # the values of the PUT of its data that ended it

    @property
    def text(self) -> str:
        """What stands in the first streaming variable."""
        return self.params.get(self.keys[0], "") if self.keys else ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDS.values()


class Cards:
    """Every card by its outTrackId."""

    def __init__(self, journal: Journal, rules: Rules, spaces: Spaces) -> None:
        self._journal = journal
        self._rules = rules
        self._spaces = spaces
        self._cards: Bounded[str, Card] = Bounded(200_000)
        self._carriers = 0

    def create_and_deliver(self, body: Json) -> Json:
        """POST /v1.0/card/instances/createAndDeliver. A repeated outTrackId shows nothing new."""
        spaces = self._spaces.read(body)
        card = self._create(body)
        return {"success": True, "result": {"outTrackId": card.id, "deliverResults": self._deliver(card, spaces)}}

    def create(self, body: Json) -> Json:
        """POST /v1.0/card/instances: a card that nobody sees yet."""
        return {"success": True, "result": self._create(body).id}

    def deliver(self, body: Json) -> Json:
        """POST /v1.0/card/instances/deliver: show a created card."""
        spaces = self._spaces.read(body)
        card = self._cards.get(_text(body, "outTrackId", "param.outTrackIdEmpty"))
        if card is None:
            raise bad_param("param.cardNotExist", "卡片不存在")
        return {"success": True, "result": self._deliver(card, spaces)}

    def stream(self, body: Json) -> Json:
        """PUT /v1.0/card/streaming: the same guid again succeeds and changes nothing."""
        card_id = _text(body, "outTrackId", "param.stream.outTrackId")
        guid = _text(body, "guid", "param.stream.guidEmpty")
        key = _text(body, "key", "param.stream.keyEmpty")
        content, full = body.get("content"), body.get("isFull", False)
        if not isinstance(content, str) or (not content and not body.get("isFinalize") and not body.get("isError")):
            raise bad_param("param.stream.contentEmpty")
        if not isinstance(full, bool):
            raise bad_param("param.stream.isFull")
        card = self._open_card(card_id, "param.stream.outTrackId", guid)
        if card is None:
            return DONE
        if key not in card.keys:
            raise Refused(500, "unknownError", "未知错误")
        card.guids.add(guid)
        card.params[key] = content if full else card.params.get(key, "") + content
        state = "failed" if body.get("isError") else "finished" if body.get("isFinalize") else "inputting"
        self._changed(card, state, text=card.params[key], guid=guid)
        return DONE

    def update(self, body: Json) -> Json:
        """PUT /v1.0/card/instances: overwrites the whole map unless it is told to go by key.

        The values with which it ended a card, sent again, succeed and change nothing.
        """
        card_id, params = _text(body, "outTrackId", "param.outTrackIdEmpty"), _params(body)
        known = self._cards.get(card_id)
        if known is not None and known.over and params == known.ended_with:
            self._journal.add("repeated", what="update", card=card_id, guid=None)
            return DONE
        card = self._open_card(card_id, "param.cardNotExist", None)
        assert card is not None
        options = body.get("cardUpdateOptions")
        by_key = isinstance(options, dict) and options.get("updateCardDataByKey") is True
        card.params = {**card.params, **params} if by_key else dict(params)
        state = ENDS.get(params.get("flowStatus", ""), card.state)
        card.ended_with = params if state in ENDS.values() else None
        self._changed(card, state, text=card.text, guid=None)
        return DONE

    def shown(self) -> list[Json]:
        """All cards as they stand, oldest first."""
        return [
            {
                "card": card.id,
                "state": card.state,
                "text": card.text,
                "params": card.params,
                "updates": card.updates,
                "conversations": [space.conversation for space in card.spaces],
            }
            for card in self._cards.values()
        ]

    def clear(self) -> None:
        """Forget all cards."""
        self._cards.clear()

    def _create(self, body: Json) -> Card:
        card_id = _text(body, "outTrackId", "param.outTrackIdEmpty")
        if (known := self._cards.get(card_id)) is not None:
            self._journal.add("repeated", what="create", card=card_id)
            if self._rules.repeated_create == "exists":
                raise bad_param("param.cardAlreadyExist", "卡片已存在")
            return known
        template = _text(body, "cardTemplateId", "param.cardTemplateIdEmpty")
        if template not in self._rules.templates:
            raise bad_param("param.templateNotExist", "模板不存在")
        if body.get("callbackType", "STREAM") not in ("STREAM", "HTTP"):
            raise bad_param("param.invalid", "callbackType")
        card = Card(card_id, template, self._rules.templates[template], dict(_params(body)))
        self._cards[card_id] = card
        return card

    def _deliver(self, card: Card, spaces: list[Space]) -> list[Json]:
        if card.delivered:
            return card.delivered
        for space in spaces:
            self._carriers += 1
            card.spaces.append(space)
            result = {"spaceType": space.kind, "spaceId": space.id, "success": True}
            card.delivered.append({**result, "carrierId": f"pqk-c{self._carriers}", "errorMsg": ""})
            self._journal.add("created", card=card.id, text=card.text, template=card.template, **space.shown())
        return card.delivered

    def _open_card(self, card_id: str, missing: str, guid: str | None) -> Card | None:
        """The card, ready for a change; None if this guid was applied before."""
        card = self._cards.get(card_id)
        if card is None:
            raise bad_param(missing, "卡片不存在")
        if guid is not None and guid in card.guids:
            self._journal.add("repeated", what="update", card=card_id, guid=guid)
            return None
        if card.over:
            # The platform's own code for this is not documented; this one is of its family.
            raise bad_param("param.stream.finalized", "卡片已结束")
        return card

    def _changed(self, card: Card, state: str, *, text: str, guid: str | None) -> None:
        card.updates += 1
        card.state = state
        kind = "finished" if card.over else "updated"
        for space in card.spaces or [Space("", "", "", "")]:
            self._journal.add(kind, card=card.id, guid=guid, text=text, state=state, **space.shown())


def _text(body: Json, name: str, code: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise bad_param(code, f"{name} is empty")
    return value


def _params(body: Json) -> dict[str, str]:
    data = body.get("cardData")
    params = data.get("cardParamMap") if isinstance(data, dict) else None
    if not isinstance(params, dict):
        raise bad_param("param.cardPublicDataEmpty", "cardData.cardParamMap is empty")
    for name, value in params.items():
        if not isinstance(value, str):
            raise bad_param("param.invalid", f"cardParamMap.{name} is no string")
    return params
