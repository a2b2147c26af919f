"""The mailbox against a plain model of its rules: any order of steps, by any holder, with any answer lost.

Every call goes through a proxy that may lose its answer after the script ran, so that it is made again. After each
step the whole record is compared with the model, and at the end the sweeper alone must bring everything to its end.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app import keys
from app.acceptance import Limits
from app.drafts import Drafts
from app.errors import LeaseLost
from app.keys import Box
from app.mailbox import DraftLease, Elsewhere, Idle, Lease, Mailbox, Remember
from app.message import Message
from app.redis import Store
from tests.app.mailbox_model import BOXES, End, Item, Model, Place
from tests.app.mailbox_view import LEASE_S, PAUSE_S, View, of_model
from tests.app.proxy import proxied
from tests.samples import a_message, a_reply, an_address, notices

LIMIT, ROOM = 2, 4
LIMITS = Limits(lease_s=LEASE_S, inbox_limit=LIMIT, waiting_limit=ROOM, suspect_rest_s=PAUSE_S)
QUEUE_OF = {"outbox": "send", "control": "control"}

Arrival = tuple[Box, Message, str]
Spot = tuple[Box, str]
Held = Lease | DraftLease
Thing = TypeVar("Thing")


def pick(things: Sequence[Thing], number: int) -> Thing:
    return things[number // 10 % len(things)]


def three_people() -> list[str]:
    """Three conversations; the first two share a shard."""
    first, *others = [a_message(sender=f"p{number}").conversation for number in range(64)]
    neighbour = next(name for name in others if keys.shard_of(name) == keys.shard_of(first))
    stranger = next(name for name in others if keys.shard_of(name) != keys.shard_of(first))
    return [first, neighbour, stranger]


PEOPLE = three_people()
SHARDS = sorted({keys.shard_of(name) for name in PEOPLE})
PLACES = list(itertools.product(BOXES, PEOPLE))
numbers = st.integers(0, 999)  # which one of those that there are
queues = st.sampled_from(("text", "image"))
cuts = st.sampled_from((False, False, False, False, True))
yes_or_no = st.booleans()
SETTINGS = settings(
    max_examples=40,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),  # a failure is shown as it was found: to make it short takes minutes on a real server
)
ends = st.builds(
    End,
    what=st.sampled_from(("keep", "save", "forget")),
    context=st.sampled_from((b"[1]", b"[2]")),
    dead_letter=st.sampled_from((b"", b"", b"dead 1", b"dead 2")),
)


def some_lease(rules: Any) -> bool:
    return any(isinstance(held, Lease) for held in rules.leases)


class Cutting(Protocol):
    """Loses the answer of the next script when it is told to, and counts them."""

    cuts: int

    def cut_next(self) -> None: ...


class Rules(RuleBasedStateMachine):
    """Each rule makes one call, here and in the model, and compares the answers."""

    record: ClassVar[Store]
    behind: ClassVar[Store]  # the same record, through the proxy
    proxy: ClassVar["Cutting"]

    def __init__(self) -> None:
        super().__init__()
        self.record.client.flushall()
        self.view = View(self.record.client, self.record.server_of)
        self.model = Model(LIMIT, ROOM)
        self.boxes = {box: Mailbox(self.behind, box, LIMITS) for box in BOXES}
        self.arrivals: list[Arrival] = []
        self.leases: list[Held] = []  # late holders stay in it with their old tokens
        self.newest: dict[int, int] = defaultdict(int)  # token of each shard

    def call(self, cut: bool, step: Callable[[], Any]) -> Any:
        """Make a call; with `cut` its answer is lost and it is made again. LeaseLost becomes a word."""
        before = self.proxy.cuts
        if cut:
            self.proxy.cut_next()
        try:
            return step()
        except LeaseLost:
            return "LOST"
        finally:
            assert self.proxy.cuts == before + cut

    def a_spot(self, number: int, wanted: Callable[[Place], object]) -> Spot:
        """Mostly a place where something can happen."""
        good = [spot for spot in PLACES if wanted(self.model.places[spot])] if number % 10 else []
        return pick(good or PLACES, number)

    def a_holder(self, number: int) -> Lease:
        """Mostly one that holds a message or a reply; sometimes one who is late."""
        return self.holder([held for held in self.leases if isinstance(held, Lease)], number)

    def any_holder(self, number: int) -> Held:
        """As a_holder, or one that holds a draft."""
        return self.holder(self.leases, number)

    def holder(self, every: list[Thing], number: int) -> Thing:
        now = [held for held in every if self.holds(held)]
        return pick(now if now and number % 5 else every, number)

    def holds(self, held: Any) -> bool:
        return self.model.places[held.box, held.conversation].holds(held.token)

    # What arrives

    @initialize(box=st.sampled_from(("inbox", "inbox", "control")), leased=yes_or_no)
    def a_morning(self, box: Box, leased: bool) -> None:
        """Two wait in one mailbox and one in a neighbour's, so that few steps lead far."""
        for conversation, sent in ((PEOPLE[0], 1), (PEOPLE[0], 3), (PEOPLE[1], 2)):
            self.a_message_arrives("inbox", conversation, "text", sent, cut=False)
        if leased:
            self.lease("inbox", PEOPLE[0], "text", cut=False)
        if box == "control":
            self.a_message_arrives(box, PEOPLE[0], "", 2, cut=False)

    @rule(
        box=st.sampled_from(("inbox", "inbox", "inbox", "control")),
        conversation=st.sampled_from(PEOPLE),
        queue=queues,
        sent=st.integers(1, 4),
        cut=cuts,
    )
    def a_message_arrives(self, box: Box, conversation: str, queue: str, sent: int, cut: bool) -> None:
        person = conversation.rpartition(":")[2]
        message = a_message(f"m{len(self.arrivals)}", sender=person, sent_at=float(sent))
        self.arrivals.append((box, message, QUEUE_OF.get(box, queue)))
        self.accept(*self.arrivals[-1], cut)

    @precondition(lambda self: self.arrivals)
    @rule(number=numbers, cut=cuts)
    def one_arrives_again(self, number: int, cut: bool) -> None:
        self.accept(*pick(self.arrivals, number), cut)

    def accept(self, box: Box, message: Message, queue: str, cut: bool) -> None:
        answer = self.call(cut, lambda: self.boxes[box].accept(message, queue, notices=notices(message)))

        for _ in range(1 + cut):  # who repeats it hears REPEAT, and is told whom to wake
            item = Item(message.id, queue, round(message.sent_at * 1000), message.text)
            wanted = self.model.accept(box, message.conversation, item)
        assert (answer.outcome.value, answer.wake) == wanted

    # Who works

    @rule(number=numbers, queue=queues, cut=cuts)
    def somebody_comes(self, number: int, queue: str, cut: bool) -> None:
        box, conversation = self.a_spot(number, lambda place: place.items)
        self.lease(box, conversation, QUEUE_OF.get(box, queue), cut)

    @rule(number=numbers, cut=cuts)
    def a_sender_comes_to_type(self, number: int, cut: bool) -> None:
        typed = list(self.model.drafts) or PEOPLE
        self.lease("outbox", pick(typed, number), "send", cut)

    def lease(self, box: Box, conversation: str, queue: str, cut: bool) -> None:
        held = self.call(cut, lambda: self.boxes[box].lease(conversation, queue))

        answer = self.model.lease(box, conversation, queue, getattr(held, "token", 0))
        if isinstance(held, Lease | DraftLease):
            self.leases.append(held)
            self.check_lease(held, answer)
        else:
            assert answer == ("ELSEWHERE" if isinstance(held, Elsewhere) else held.value)

    def check_lease(self, held: Held, answer: str) -> None:
        shard = keys.shard_of(held.conversation)
        assert held.token > self.newest[shard], "a token was given out twice"
        self.newest[shard] = held.token
        if isinstance(held, DraftLease):
            draft = self.model.drafts[held.conversation]
            assert answer == "DRAFT"
            assert (held.id, held.turn, held.version, held.text) == (draft.id, draft.token, draft.version, draft.text)
            return
        head = self.model.places[held.box, held.conversation].items[0]
        text = (held.reply() if held.box == "outbox" else held.message()).text
        assert answer == "LEASED"
        assert (held.id, text, held.note) == (head.id, head.text, head.note)
        assert (held.raised, held.vanished, held.forwards) == (head.raised, head.vanished, head.forwards)
        assert held.stale == self.model.stale(held.box, held.conversation)

    @precondition(some_lease)
    @rule(number=numbers, replies=yes_or_no, end=ends, cut=cuts)
    def it_is_done(self, number: int, replies: bool, end: End, cut: bool) -> None:
        held = self.a_holder(number)
        reply = a_reply(a_message(held.id, sender=held.conversation.rpartition(":")[2])) if replies else None
        remember = Remember(what=end.what, context=end.context)
        done = self.call(
            cut,
            lambda: self.boxes[held.box].commit(
                held, reply=reply, remember=remember, dead_letter=end.dead_letter, closes=held.stale
            ),
        )

        item = Item(held.id, "send", 0, reply.text) if reply else None
        closes = held.stale or (held.id,)
        wanted = self.model.commit(held.box, held.conversation, held.token, closes=closes, reply=item, end=end)
        assert (("LOST",) if done == "LOST" else ("DONE", done.next_queue, done.send)) == wanted

    @precondition(some_lease)
    @rule(number=numbers, queue=queues, cut=cuts)
    def it_is_forwarded(self, number: int, queue: str, cut: bool) -> None:
        held = self.a_holder(number)
        if held.box == "outbox":
            return  # nobody forwards a reply
        message = a_message(held.id, text=f"for {queue}")
        answer = self.call(cut, lambda: self.boxes[held.box].forward(held, message, queue))

        wanted = self.model.forward(held.box, held.conversation, held.token, queue, message.text)
        assert answer == {"LOST": "LOST", "TOO_MANY": None, "DONE": wanted[-1]}[wanted[0]]

    @precondition(some_lease)
    @rule(
        number=numbers,
        pause=yes_or_no,
        counts=st.sampled_from(("", "raised", "vanished", "hung")),
        shows=yes_or_no,
        cut=cuts,
    )
    def it_is_given_back(self, number: int, pause: bool, counts: Any, shows: bool, cut: bool) -> None:
        held = self.any_holder(number)
        version = held.version if isinstance(held, DraftLease) and shows else 0
        after_s = PAUSE_S if pause else 0.0
        answer = self.call(
            cut, lambda: self.boxes[held.box].release(held, after_s=after_s, counts=counts, shown=version)
        )

        shown = (held.id, version) if version else None
        wanted = self.model.release(held.box, held.conversation, held.token, pause=pause, counts=counts, shown=shown)
        assert answer == wanted[-1]

    @precondition(some_lease)
    @rule(number=numbers, note=st.sampled_from(("", "opened")), card=yes_or_no, cut=cuts)
    def it_is_marked(self, number: int, note: str, card: bool, cut: bool) -> None:
        held = self.any_holder(number)
        answer = self.call(cut, lambda: self.boxes[held.box].mark(held, note, card="open" if card else ""))

        wanted = self.model.mark(held.box, held.conversation, held.token, note, held.id if card else "")
        assert (answer != "LOST") == wanted

    @precondition(some_lease)
    @rule(number=numbers)
    def it_is_renewed(self, number: int) -> None:
        held = self.any_holder(number)
        twice = [self.boxes[held.box].renew([held]) for _ in range(2)]

        assert twice == [[self.model.renew(held.box, held.conversation, held.token)]] * 2

    @precondition(some_lease)
    @rule(number=numbers, cut=cuts)
    def it_is_checked(self, number: int, cut: bool) -> None:
        held = self.any_holder(number)
        answer = self.call(cut, lambda: self.boxes[held.box].check(held) > 0)

        assert (answer != "LOST") == self.model.renew(held.box, held.conversation, held.token)[0]

    @precondition(some_lease)
    @rule(number=numbers, text=st.sampled_from(("a", "ab")), cut=cuts)
    def it_types(self, number: int, text: str, cut: bool) -> None:
        held = self.a_holder(number)
        if held.box != "inbox":
            return
        version = self.call(cut, lambda: Drafts(self.behind).write(held, an_address(), text))

        assert version == (self.model.write(held.conversation, held.token, held.id, text) or "LOST")

    # What time does

    @rule(number=numbers)
    def a_lease_expires(self, number: int) -> None:
        spot = self.a_spot(number, lambda place: place.held)
        if held := self.model.places[spot].held:
            self.view.expire(*spot)
            held.expired, self.model.places[spot].due, self.model.places[spot].woken = True, "past", False

    @rule(number=numbers, for_long=yes_or_no)
    def time_passes(self, number: int, for_long: bool) -> None:
        """For as long as a grace or a pause, or for half a minute; shorter than a lease."""
        place = self.a_spot(number, lambda place: place.items)
        here = self.model.places[place]
        if here.due in ("soon", "pause"):
            self.view.look_again_now(*place)
            here.due = "past"
        self.view.end_pauses(*place)
        for item in here.items:
            item.paused = False
        if for_long:
            self.view.forget_waking(*place)
            here.woken = False

    @rule(number=numbers)
    def a_mailbox_grows_old(self, number: int) -> None:
        place = self.a_spot(number, lambda place: place.items)
        self.view.grow_old(*place)
        for item in self.model.places[place].items:
            item.old = True

    @rule(box=st.sampled_from(BOXES), shard=st.sampled_from(SHARDS), filled=st.lists(queues), all_=yes_or_no, cut=cuts)
    def the_sweeper_comes(self, box: Box, shard: int, filled: list[str], all_: bool, cut: bool) -> None:
        due = [name for _, name in self.boxes[box].overdue(shard, 10)]
        mine = [name for name in PEOPLE if keys.shard_of(name) == shard]
        assert {name for name in mine if self.model.places[box, name].due == "past"} <= set(due)
        names = mine if all_ else due  # a conversation may have moved since it was read as due
        answer = self.call(cut, lambda: self.boxes[box].sweep(shard, names, filled=[*filled, "send"]))

        assert answer == self.model.sweep(box, names, [*filled, "send"])

    # What must always hold

    @invariant()
    def the_record_is_the_models(self) -> None:
        for box, name in PLACES:
            seen = self.view.see(box, name)
            assert (seen.items, seen.held, seen.due, seen.stop) == of_model(self.model.places[box, name]), (box, name)
            held_now = seen.held and not seen.held[2]  # one who vanished while it typed leaves nothing to do
            assert seen.due or not (seen.items or held_now), "it is stuck: no sweeper will look at it"
            assert seen.due or seen.ttl_ms != -1, "an idle mailbox is kept for ever"
        for name in PEOPLE:
            draft = self.model.drafts.get(name)
            wanted = draft and (draft.id, draft.token, draft.text, draft.version, draft.shown)
            assert self.view.draft(name) == wanted
            assert (self.record.client.get(keys.context(name)) or b"") == self.model.contexts.get(name, b"")
        for shard in SHARDS:
            assert [self.view.counter(box, shard) for box in BOXES] == [self.model.waiting(box, shard) for box in BOXES]
            assert set(self.record.client.zrange(keys.dead(shard), 0, -1)) == self.model.dead[shard]
            assert self.view.cards(shard) == self.model.cards[shard]

    def teardown(self) -> None:
        """Whatever happened: with wake-ups of the sweeper alone, every mailbox becomes empty."""
        for _ in range(4 + sum(len(place.items) for place in self.model.places.values())):
            for place in PLACES:
                self.view.expire(*place)
                self.view.end_pauses(*place)
                self.work_off(*place)
        assert [self.view.counter(box, shard) for box in BOXES for shard in SHARDS] == [0] * len(BOXES) * len(SHARDS)

    def work_off(self, box: Box, conversation: str) -> None:
        shard = keys.shard_of(conversation)
        due = [name for _, name in self.boxes[box].overdue(shard, 10)]
        for queue, name in self.boxes[box].sweep(shard, due, filled=[]):
            held = self.boxes[box].lease(name, queue)
            if held is Idle.BUSY and self.view.see(box, name).due == "pause":
                continue  # it vanished as a suspect
            assert isinstance(held, Lease)
            self.boxes[box].commit(held)


def test_the_mailbox_follows_its_rules(valkey_url: str, store: Store) -> None:
    """Whatever the order of steps and the answers that are lost, the record is what the rules say."""
    with proxied(valkey_url) as proxy:
        Rules.record, Rules.proxy = store, proxy
        Rules.behind = Store(proxy.url, deadline_s=10.0)
        run_state_machine_as_test(Rules, settings=SETTINGS)
        Rules.behind.close()
