"""Time to the first token of a follow-up, whose history is in the cache already, against the same prompt cold.

`python -m benchmarks.prefix` has several people talk in turns with the demo model, through its chat template. Each
follow-up is asked twice: as it is, and with another first word, so that nothing of it is known. Seconds are those of
the CPU of this process: they hold on a busy machine too.
"""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.engine import load
from benchmarks.figures import Figure, Reach, arguments_for, median, say, show
from workers.engine.interface import Request

if TYPE_CHECKING:
    from workers.engine.slots import SlotsEngine

PEOPLE, TURNS, ANSWER_TOKENS = 3, 5, 40
MAX_TOKENS = 2048
SYSTEM = (
    "are the assistant of a railway company. You answer in a few friendly sentences, you never make up a departure, "
    "and when you do not know something, you name the office that does. The office for lost property is in hall two, "
    "the office for tickets in hall one, and the one for groups on the first floor. Bicycles travel in the last coach."
)
REACH = Reach("<", 0.25)

Messages = tuple[tuple[str, str], ...]


def first_token(engine: "SlotsEngine", messages: Messages) -> tuple[float, str]:
    """CPU seconds from the request to its first token, and the whole answer."""
    begun_s = time.process_time()
    handle = engine.submit(Request(messages=messages, max_new_tokens=ANSWER_TOKENS))
    while handle.next_piece(None) == "":
        pass
    took_s = time.process_time() - begun_s
    return took_s, handle.result().text


def cold(messages: Messages, number: int) -> Messages:
    """The same with another beginning."""
    (role, text), *others = messages
    return ((role, f"Number {number}: {text}"), *others)


def talk(engine: "SlotsEngine", people: int, turns: int) -> list[list[tuple[float, float]]]:
    """For each turn, of everybody: CPU seconds warm and cold."""
    found: list[list[tuple[float, float]]] = [[] for _ in range(turns)]
    chats: list[Messages] = [(("system", f"You {SYSTEM}"),) for _ in range(people)]
    number = 0
    for turn in range(turns):
        for who in range(people):
            number += 1
            asked = (
                *chats[who],
                ("user", f"I am person {who} on my trip {turn}. Where do I find my train to city {number}?"),
            )
            cold_s, _ = first_token(engine, cold(asked, number))
            warm_s, answer = first_token(engine, asked)
            found[turn].append((warm_s, cold_s))
            chats[who] = (*asked, ("assistant", answer))
        say(f"turn {turn + 1} of {turns}")
    return found


def figures(found: Sequence[Sequence[tuple[float, float]]], reused: int, computed: int) -> list[Figure]:
    """Medians of each turn, and of all follow-ups together."""
    shown = []
    for turn, pairs in enumerate(found):
        name = f"turn {turn + 1}"
        shown.append(Figure(f"{name}: first token, warm", 1000 * median([warm for warm, _ in pairs]), "ms CPU"))
        shown.append(Figure(f"{name}: first token, cold", 1000 * median([cold for _, cold in pairs]), "ms CPU"))
    ratios = [warm / cold for pairs in found[1:] for warm, cold in pairs]
    return [
        *shown,
        Figure("follow-ups: warm / cold", median(ratios), "x", REACH),
        Figure("prompt tokens computed", computed),
        Figure("prompt tokens reused", reused),
    ]


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_for(__doc__)
    parser.add_argument("--people", type=int, default=PEOPLE, help="how many talk in turns")
    parser.add_argument("--turns", type=int, default=TURNS, help="questions each")
    parser.add_argument("--dtype", default="float32", help="the numbers to compute in, such as bfloat16")
    parser.add_argument("--model", default="", help="a folder; empty: the demo model")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    arguments = read_arguments(argv)
    loaded = load(arguments.model, arguments.dtype)
    from workers.engine.slots import SlotsEngine

    engine = SlotsEngine(loaded, slots=2 * arguments.people, max_tokens=MAX_TOKENS, threads=1)
    try:
        found = talk(engine, arguments.people, arguments.turns)
        scheduler = engine._scheduler
        show(figures(found, scheduler.places.reused_tokens, scheduler.prefilled_tokens), arguments)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
