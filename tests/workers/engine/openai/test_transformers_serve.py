"""The engine against a real server with the demo model: `transformers serve`, as it is installed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.errors import EngineUnavailable, RequestRejected
from tests.valkey import free_port
from tests.workers.engine.asking import ask, first_piece, until
from tests.workers.engine.conftest import MakeSlots
from workers.engine.interface import Request
from workers.engine.openai.client import Limits
from workers.engine.openai.engine import OpenAIEngine

START_S = 240.0
pytestmark = pytest.mark.timeout(300)  # the first test loads the model in another process
PATIENT = Limits(first_token_s=90.0, between_tokens_s=60.0)
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def url(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server that has loaded the model; without the network, on one core."""
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    command = [sys.executable, "-m", "tests.workers.engine.openai.transformers_serve", str(model_folder), str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(lambda: process.poll() is not None or healthy(port), deadline_s=START_S)
            assert process.poll() is None, (folder / "log").read_text()
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def engine(url: str, model_folder: Path) -> Iterator[OpenAIEngine]:
    with closing(OpenAIEngine([url], model=str(model_folder), slots=2, max_tokens=512, limits=PATIENT)) as engine:
        yield engine


def test_its_answer_is_that_of_the_engine_slots(engine: OpenAIEngine, make_slots: MakeSlots) -> None:
    """The same model, the same template, the best token each time: text, end and usage."""
    request = Request(messages=(("system", "Be short."), ("user", QUESTION)), max_new_tokens=24)

    theirs, ours = engine.submit(request).result(), make_slots().submit(request).result()

    assert "Paris" in theirs.text
    assert (theirs.text, theirs.finish, theirs.prompt_tokens) == (ours.text, ours.finish, ours.prompt_tokens)


def test_it_comes_piece_by_piece_in_whole_characters(engine: OpenAIEngine) -> None:
    handle = engine.submit(ask("Repeat exactly: 北京 😀", max_new_tokens=12))

    pieces = list(handle)

    assert len(pieces) > 2
    assert "".join(pieces) == handle.result().text
    assert "\ufffd" not in handle.result().text


def test_a_stop_string_never_shows(engine: OpenAIEngine) -> None:
    handle = engine.submit(ask(QUESTION, max_new_tokens=16, stop=("Paris",)))

    assert "".join(handle) == handle.result().text == "The capital of France is "
    assert handle.result().finish == "stop"


def test_the_limit_of_tokens_is_heeded(engine: OpenAIEngine) -> None:
    result = engine.submit(ask("Write a long story about a train.", max_new_tokens=5)).result()

    assert (result.finish, result.new_tokens) == ("length", 5)


def test_a_cancelled_answer_makes_room_for_the_next(engine: OpenAIEngine) -> None:
    """This server writes one answer at a time: the next one comes only if it heard of the cancel."""
    long = engine.submit(ask("Write a very long story about a train and all its passengers.", max_new_tokens=450))
    begun = first_piece(long)

    long.cancel()

    assert long.result().finish == "cancelled"
    assert long.result().text.startswith(begun)
    assert long.result().new_tokens < 450
    assert "Paris" in engine.submit(ask(QUESTION, max_new_tokens=12)).result().text


def test_what_it_does_not_know_is_refused_with_its_reason(engine: OpenAIEngine) -> None:
    with pytest.raises(RequestRejected, match="top_k"):
        engine.submit(ask(QUESTION, top_k=5)).result()


def test_another_model_than_its_own_is_a_wrong_setting(url: str) -> None:
    with (
        closing(OpenAIEngine([url], model="large", slots=2, max_tokens=512, limits=PATIENT)) as engine,
        pytest.raises(EngineUnavailable, match="SWITCHYARD_MODEL"),
    ):
        engine.submit(ask(QUESTION)).result()


def test_a_long_talk_is_fitted_by_an_estimate_and_then_runs(engine: OpenAIEngine) -> None:
    """It cannot count for us."""
    turns = tuple(("user" if n % 2 == 0 else "assistant", f"This is sentence number {n}. " * 3) for n in range(61))

    fitted = engine.fit((("system", "Be short."), *turns), 16)
    result = engine.submit(Request(messages=fitted, max_new_tokens=2)).result()

    assert len(fitted) < len(turns)
    assert 200 < result.prompt_tokens <= 496


def test_the_start_looks_around_and_goes_on(engine: OpenAIEngine) -> None:
    """It lists what the hub's cache holds, and loads what is asked for."""
    engine.look_around()
