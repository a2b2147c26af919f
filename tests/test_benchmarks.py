"""The benchmarks run and print what they promise, at tiny sizes; no number is judged here, a machine may be slow."""

import argparse
import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from app.redis import Store
from benchmarks import accept, failover, load, overhead, renewals
from benchmarks.figures import Figure, Reach, arguments_for, as_json, median, percentile, show, table
from prove.cluster import valkey_cluster
from prove.installation import installation
from prove.verdict import Sent
from sandbox.client import SandboxClient
from sandbox.process import running_sandbox
from tests.valkey import valkey

ANSWER_S = 0.2


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxClient]:
    """A platform with a whole installation on it, whose engine is quick."""
    folder: Path = tmp_path_factory.mktemp("installation")
    with (
        running_sandbox() as sandbox,
        installation(folder, sandbox, load.settings("stream", ANSWER_S)),
        SandboxClient(sandbox.url) as client,
    ):
        yield client


def names(figures: Sequence[Figure]) -> list[str]:
    return [figure.name for figure in figures]


def values(figures: Sequence[Figure]) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}


def test_overhead_is_measured_for_each_message(client: SandboxClient) -> None:
    """A message that is left out would flatter the percentiles."""
    took_ms = overhead.measure(client, 3, "overhead")

    figures = overhead.figures("stream", took_ms)

    assert len(took_ms) == 3
    assert names(figures) == ["stream: frame to reply, p50", "stream: frame to reply, p99"]
    assert all(figure.reach is not None and figure.value > 0 for figure in figures)


def test_load_counts_answers_and_faults_by_the_log_of_the_platform(client: SandboxClient) -> None:
    """Speed counts only for answers that came once, to the right person, in order."""
    since = client.last()

    sent = load.ask_all(client, people=3, questions=2)
    figures = load.figures("stream", sent, load.wait_for_answers(client, sent, since, limit_s=30))

    found = values(figures)
    assert found["stream: answered"] == 6
    assert [found[f"stream: {fault}"] for fault in ("lost", "doubled", "out of order", "wrong recipient")] == [0] * 4
    assert found["stream: answers a second"] > 0
    assert found["stream: push to answer, p50"] <= found["stream: push to answer, p99"]


def test_an_answer_that_never_came_is_counted_as_lost() -> None:
    """A run in which nothing was answered must not print a speed that looks like one."""
    sent = [Sent("m1", "ann", 0, "p0m0")]
    log = [
        {"seq": 1, "kind": "pushed", "msgId": "m1", "mono_s": 1.0},
        {"seq": 2, "kind": "acked", "msgId": "m1", "mono_s": 1.1},
    ]

    figures = load.figures("stream", sent, log)

    found = values(figures)
    assert (found["stream: answered"], found["stream: lost"]) == (0, 1)
    assert math.isnan(found["stream: answers a second"])
    assert not any(figure.met() for figure in figures if math.isnan(figure.value))


def test_accept_measures_every_contender_on_the_same_servers(tmp_path: Path) -> None:
    """A ratio says something only if both sides did the same work: each frame acknowledged, each wake-up there."""
    with accept.bench(tmp_path) as bench:
        figures = accept.measure(bench, frames=60, rounds=1, steady_s=0.2)

    assert names(figures)[:4] == [
        "listener",
        "SDK and apply_async",
        "listener without wake-ups",
        "listener / SDK, median of rounds",
    ]
    assert all(figure.value > 0 for figure in figures)


def test_the_cost_of_waiting_for_a_replica_is_measured_on_one_cluster(tmp_path: Path) -> None:
    """A ratio says something only if both ways ran on the same servers."""
    with valkey_cluster(tmp_path, replicas=1) as cluster:
        cost = failover.cost(cluster, messages=80, rounds=1, writes=1)

    assert names(cost)[:3] == [
        "accepted without waiting",
        "accepted when a replica has it",
        "with / without, median of rounds",
    ]
    assert all(figure.value > 0 for figure in cost)


def test_what_is_gone_after_a_failover_is_counted(tmp_path: Path) -> None:
    """A count that cannot see a loss would show none."""
    message = failover.a_message("gone", 1)
    run = failover.Load("gone", [(1.0, message), (2.0, failover.a_message("gone", 2))])
    with valkey(tmp_path) as url:
        asyncio.run(failover.alone_ms(url, 0, "gone", 2))  # numbers 0 and 1

        assert [one.id for one in failover._missing(url, run)] == ["dingtalk:bench:gone-2"]


def test_the_engines_workload_is_the_same_for_all_contenders() -> None:
    """The requests are those that the quoted figures were measured with: 48 of mixed lengths."""
    from benchmarks.requests import ANSWER_TOKENS, PROMPT_TOKENS, burst, poisson

    tasks = burst(48, vocabulary=1000)
    arriving = poisson(tasks, per_s=2.0)

    assert tasks == burst(48, vocabulary=1000)
    assert [(task.prompt, task.new) for task in arriving] == [(task.prompt, task.new) for task in tasks]
    assert 12 < arriving[-1].at_s < 48
    assert all(PROMPT_TOKENS[0] <= len(task.prompt) <= PROMPT_TOKENS[1] for task in tasks)
    assert all(ANSWER_TOKENS[0] <= task.new <= ANSWER_TOKENS[1] for task in tasks)


def test_every_contender_answers_every_request_with_the_same_tokens() -> None:
    """A ratio says something only if all did the same work. Two requests come late: those who batch must not wait."""
    from benchmarks.contenders import contenders
    from benchmarks.engine import latency, run_once, throughput
    from benchmarks.requests import Task
    from tests.workers.engine.tiny import as_loaded, tiny_llama

    loaded = as_loaded(tiny_llama())
    tasks = [Task([3, 4, 5], 6), Task([9] * 20, 4), Task([1, 2], 3, at_s=1.0), Task([8], 2, at_s=100.0)]

    found = {name: [run_once(contender, loaded, tasks)] for name, contender in contenders(slots=2).items()}

    answers = {name: [one.answer for one in rounds[0].noted] for name, rounds in found.items()}
    assert all(answer == answers["generate()"] for answer in answers.values())
    assert all(0 < one.first_s <= one.end_s < 90 for rounds in found.values() for one in rounds[0].noted)
    figures = values(throughput(found)) | values(latency(found, per_s=1.0))
    assert figures["answers equal to generate()'s"] == figures["answers"] == 4
    assert figures["slots / static 16"] > 0
    assert figures["slots / collect: latency, p50"] > 0


def test_adapters_are_measured_beside_the_same_steps_without_any() -> None:
    """A figure is a multiple of the plain step."""
    from benchmarks.adapters import CONTENDERS, PLAIN, ROWS, measure
    from tests.workers.engine.tiny import as_loaded, tiny_llama

    found = values(measure(as_loaded(tiny_llama()), 2))

    assert list(found) == [f"{PLAIN}: a step of {ROWS} requests", *CONTENDERS]
    assert all(value > 0 for value in found.values())


@pytest.mark.parametrize("kind", ["slots", "paged"])
def test_everybody_who_asked_a_dying_engine_is_counted(kind: str) -> None:
    """All eight are told at last, and those whose answers broke off."""
    from benchmarks.dying import PEOPLE, measure
    from tests.workers.engine.tiny import as_loaded, tiny_llama

    found = values(measure(kind, as_loaded(tiny_llama()), 1))

    assert found[f"{kind}: requests that got an error"] > PEOPLE
    assert found[f"{kind}: worst wait for it"] > 0


def test_renewals_are_watched_under_each_load(store: Store) -> None:
    """The figures are the gaps between renewals that the record answered, as ratios to the interval of the lease."""
    loads: dict[str, renewals.Load] = {"idle": nullcontext, "busy": lambda: renewals.spinning(threads=1)}

    figures = renewals.measure(store, loads, lease_s=0.3, seconds=1.5, held=3)

    found = values(figures)
    assert names(figures)[:3] == ["idle: gap, p50", "idle: gap, p99", "idle: gap, worst"]
    assert 0 < found["idle: gap, p50"] <= found["idle: gap, worst"]
    assert found["busy: gap, worst"] > 0
    assert found["a lease ends at"] == pytest.approx(3)


def test_figures_are_printed_with_their_reach(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads a table sees at once what was not reached."""
    figures = [Figure("fast", 5, "ms", Reach("<", 10)), Figure("slow", 50.25, "ms", Reach("<", 10)), Figure("plain", 7)]

    show(figures, argparse.Namespace(json=False))

    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["fast", "5", "ms", "<", "10", "reached"],
        ["slow", "50.25", "ms", "<", "10", "MISSED"],
        ["plain", "7"],
    ]


def test_figures_are_printed_as_json_for_machines() -> None:
    """What could not be measured is null: NaN is no JSON."""
    told = json.loads(as_json([Figure("rate", 2, "/s", Reach(">=", 1)), Figure("none", math.nan)]))

    assert told == [
        {"figure": "rate", "value": 2, "unit": "/s", "reach": ">= 1", "met": True},
        {"figure": "none", "value": None, "unit": "", "reach": None, "met": None},
    ]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 2), (0.99, 4), (1.0, 4)])
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    """No value is made up between two others."""
    assert percentile([4, 3, 2, 1], share) == expected


def test_nothing_measured_is_no_number() -> None:
    """An empty run prints no zero, which would look like a very good time."""
    assert math.isnan(percentile([], 0.5))
    assert math.isnan(median([]))
    assert "nan" in table([Figure("none", math.nan)])


def test_every_command_line_knows_json() -> None:
    """All benchmarks are read by the same tools."""
    assert arguments_for("").parse_args(["--json"]).json
    assert overhead.read_arguments(["--json"]).json
    assert load.read_arguments(["--json"]).json
    assert accept.read_arguments(["--json"]).json
    assert failover.read_arguments(["--json"]).json
    assert renewals.read_arguments(["--json"]).json
