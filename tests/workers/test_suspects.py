"""What kills its process is found and given up; who was beside it, or was killed from outside, is answered.

Processes die here without dying: every turn that was inside raises what no turn catches, and its lease expires. What
was leased, by whom and how often is the real record's; time passes only when nothing else can happen.
"""

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.message import Message
from app.redis import Store
from skills.sdk import Context
from tests.app.supervised import eventually
from tests.samples import a_message
from tests.workers.desk import PATIENCE_S, House, a_house, a_skill
from workers.skills import Skills
from workers.turn import SUSPECT_PAUSE_S, run_turn

ROUNDS = 200  # a street that is not done by then goes round in circles


class Died(BaseException):
    """The process is gone: no turn hears of it."""


class Process:
    """A worker process. Its turns stay inside their skill until it is decided whether it dies or they end."""

    def __init__(self, house: House) -> None:
        self.inside: list[Message] = []
        self._decided = threading.Event()
        self._dies = False
        skills = Skills([a_skill(self._run)])
        self.desk = replace(house.desk, skills=skills, suspects=threading.Lock())

    def _run(self, context: Context, message: Message) -> str:
        self.inside.append(message)
        assert self._decided.wait(PATIENCE_S)
        if self._dies:
            raise Died
        return "well"

    def work(self, messages: Sequence[Message], dies: Callable[[list[Message]], bool]) -> bool:
        """Serve the heads of these conversations at the same time; whether the process died of it."""
        with ThreadPoolExecutor(len(messages)) as threads:
            turns = [threads.submit(run_turn, one.conversation, "text", desk=self.desk) for one in messages]
            eventually(lambda: len(self.inside) + sum(map(Future.done, turns)) >= len(turns))
            self._dies = dies(self.inside)
            self._decided.set()
        for turn in turns:
            if not isinstance(turn.exception(), Died):
                turn.result()
        return self._dies


class Street:
    """People who each said one thing; those who said `kill` kill the process that answers them."""

    def __init__(self, house: House, said: Iterable[str]) -> None:
        self.house = house
        self.messages = [house.gets(a_message(text=text, sender=f"p{n}")) for n, text in enumerate(said)]
        self.deaths: list[list[str]] = []  # who was inside, each time

    def waiting(self) -> list[Message]:
        return [message for message in self.messages if self.house.items("inbox", message)]

    def live(self, *, processes: int = 1, kills: int = 0, chance: random.Random | None = None) -> None:
        """Go on until everybody has a reply. The first `kills` processes that hold a turn are killed from outside."""
        for _ in range(ROUNDS):
            if not (waiting := self.waiting()):
                return
            places: list[list[Message]] = [[] for _ in range(processes)]
            for message in waiting:
                (chance.choice(places) if chance else places[0]).append(message)
            moved = [self._work(place, len(self.deaths) < kills) for place in places if place]
            self._time_passes(for_long=not any(moved))
        raise AssertionError("somebody still waits")

    def _work(self, messages: Sequence[Message], killed: bool) -> bool:
        """One process's work; whether anything happened."""
        process = Process(self.house)
        if process.work(messages, lambda inside: any(killed or "kill" in one.text for one in inside)):
            self.deaths.append([message.text for message in process.inside])
            for message in process.inside:
                self.house.expire(message)
        return bool(process.inside)

    def _time_passes(self, *, for_long: bool) -> None:
        """The pause of a suspect that waits for its turn ends at once; the rest of one whose process died does not."""
        resting = [message for message in self.waiting() if self._rests(message)]
        for message in self.waiting():
            if for_long or message not in resting:
                self.house.hasten(message)

    def _rests(self, message: Message) -> bool:
        head = self.house.head(message)
        seconds, micros = self.house.store.client.time()
        return bool(head.get("later", 0) / 1000 - seconds - micros / 1e6 > SUSPECT_PAUSE_S)

    def answered(self) -> list[str]:
        return [message.text for message in self.messages if self.house.texts(message) == ["well"]]

    def dead(self) -> list[str]:
        """Who became a dead letter, and got the one apology for it."""
        sorry = [self.house.wording.say("apology_failed")]
        letters = {letter["id"] for message in self.messages for letter in self.house.dead_letters(message)}
        assert letters == {message.id for message in self.messages if self.house.texts(message) == sorry}
        return [message.text for message in self.messages if message.id in letters]


@pytest.fixture
def house(store: Store) -> Iterator[House]:
    with a_house(store, lease_s=60.0) as house:
        yield house


def people(count: int, *killers: str) -> list[str]:
    """So many innocents, with the killers among them."""
    said = [f"innocent {number}" for number in range(count)]
    for number, killer in enumerate(killers):
        said.insert(count // 2 + 2 * number, killer)
    return said


def test_a_killer_in_a_batch_of_sixteen_dies_alone(house: House) -> None:
    """Twice all of them go down, three times it goes alone; fifteen are answered and nobody else is given up."""
    street = Street(house, people(15, "kill"))

    street.live()

    assert (len(street.answered()), street.dead()) == (15, ["kill"])
    assert [len(inside) for inside in street.deaths] == [16, 16, 1, 1, 1]


def test_two_killers_in_a_batch_take_nobody_along(house: House) -> None:
    """They never run together once they are suspects, so each is found by itself."""
    street = Street(house, people(14, "kill", "kill too"))

    street.live()

    assert (len(street.answered()), street.dead()) == (14, ["kill", "kill too"])
    assert [len(inside) for inside in street.deaths] == [16, 16, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(4))
def test_killers_among_two_processes_are_all_found_and_nobody_else(house: House, seed: int) -> None:
    """Who is beside whom is chance; a killer that comes to the other process kills that one too."""
    street = Street(house, people(9, "kill 1", "kill 2", "kill 3"))

    street.live(processes=2, chance=random.Random(seed))

    assert (len(street.answered()), street.dead()) == (9, ["kill 1", "kill 2", "kill 3"])


@pytest.mark.parametrize("count", [2, 8])
def test_five_kills_in_a_row_from_outside_cost_nobody_an_answer(house: House, count: int) -> None:
    """A suspect whose process was killed rests, and others go first: a row of kills does not hit the same one."""
    street = Street(house, people(count))

    street.live(kills=5)

    assert len(street.deaths) == 5
    assert (len(street.answered()), street.dead()) == (count, [])


def test_one_turn_alone_survives_four_kills_from_outside(house: House) -> None:
    """From the fifth on it looks like one that kills."""
    street = Street(house, people(1))

    street.live(kills=4)

    assert (street.answered(), street.dead()) == (["innocent 0"], [])


def test_a_killer_that_comes_later_takes_no_suspect_along(house: House) -> None:
    """Beside a suspect new ones run; a new killer has two deaths before it is a suspect itself."""
    street = Street(house, ["innocent"])
    for _ in range(2):
        house.vanish(street.messages[0])
    street.messages.append(house.gets(a_message(text="kill", sender="later")))

    street.live()

    assert (street.answered(), street.dead()) == (["innocent"], ["kill"])
    assert street.deaths[0] == ["innocent", "kill"] or street.deaths[0] == ["kill", "innocent"]
