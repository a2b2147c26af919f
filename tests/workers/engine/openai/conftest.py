"""A server with every fault, and engines that ask it; both end with the test."""

from collections.abc import Callable, Iterator

import pytest

from tests.workers.engine.openai.model_server import MODEL, ModelServer, model_server
from workers.engine.openai.client import Limits
from workers.engine.openai.engine import OpenAIEngine

PATIENT = Limits(connect_s=30.0, first_token_s=30.0, between_tokens_s=30.0, tail_s=1.0, ask_s=30.0)
QUICK = Limits(connect_s=30.0, first_token_s=2.5, between_tokens_s=2.5, tail_s=1.0)  # for servers that say nothing

MakeEngine = Callable[..., OpenAIEngine]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def engine_at(server: ModelServer) -> Iterator[MakeEngine]:
    """Makes engines whose servers behave like this, one after the other."""
    made: list[OpenAIEngine] = []

    def make(
        *behaviours: str,
        urls: tuple[str, ...] = (),
        slots: int = 4,
        max_tokens: int = 2048,
        limits: Limits = PATIENT,
        api_key: str = "",
        model: str = MODEL,
    ) -> OpenAIEngine:
        urls = urls or tuple(server.url(behaviour) for behaviour in behaviours)
        engine = OpenAIEngine(urls, model=model, slots=slots, max_tokens=max_tokens, limits=limits, api_key=api_key)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()
