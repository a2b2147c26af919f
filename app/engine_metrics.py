"""What the engines say of themselves, as metrics: one series a worker. What an engine does not know has none."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from app.engines import EngineFigures, Spread

_PREFIX: Final = "switchyard_engine_"
# Field of EngineFigures -> name and what it is.
_GAUGES: Final = {
    "slots": ("slots", "requests that it answers at the same time"),
    "running": ("running_requests", "requests that have a slot"),
    "waiting": ("waiting_requests", "requests that wait for a slot"),
    "cache_tokens": ("cache_tokens", "tokens that its cache has room for"),
    "cache_tokens_used": ("cache_used_tokens", "tokens of its cache that running requests have taken"),
}
_COUNTERS: Final = {
    "prompt_tokens": ("prompt_tokens", "tokens of prompts that went in, without the reused ones if these are counted"),
    "reused_tokens": ("reused_prompt_tokens", "tokens of prompts that were in its cache already"),
    "generated_tokens": ("generated_tokens", "tokens that came out"),
    "evictions": ("cache_evictions", "what was kept in its cache for later and given up for want of room"),
    "restarts": ("restarts", "how often it began anew with its weights after an error of the device"),
    "out_of_memory": ("out_of_memory", "steps that the device had no memory for, and that were made smaller"),
}
_SPREADS: Final = {
    "first_token_s": ("first_token_seconds", "from the request to its first token, with the wait for a slot"),
    "output_token_s": ("output_token_seconds", "time a token after the first one, a mean of each answer"),
}


def engine_metrics(engines: Mapping[str, EngineFigures]) -> Iterator[Metric]:
    """The families that have a sample, each with all workers that know it."""
    for field, (name, what) in _GAUGES.items():
        yield from _family(GaugeMetricFamily(_PREFIX + name, what, labels=["worker"]), _known(engines, field))
    for field, (name, what) in _COUNTERS.items():
        yield from _family(CounterMetricFamily(_PREFIX + name, what, labels=["worker"]), _known(engines, field))
    if engines:
        yield _ended(engines)
        for field, (name, what) in _SPREADS.items():
            yield _histogram(name, what, {worker: getattr(figures, field) for worker, figures in engines.items()})


def _known(engines: Mapping[str, EngineFigures], field: str) -> list[tuple[str, float]]:
    values = ((worker, getattr(figures, field)) for worker, figures in engines.items())
    return [(worker, value) for worker, value in values if value is not None]


def _family(
    family: GaugeMetricFamily | CounterMetricFamily, values: Iterable[tuple[str, float]]
) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    for worker, value in values:
        family.add_metric([worker], value)
    if family.samples:
        yield family


def _ended(engines: Mapping[str, EngineFigures]) -> Metric:
    what = "requests that ended, by reason"
    family = CounterMetricFamily(f"{_PREFIX}ended_requests", what, labels=["worker", "reason"])
    for worker, figures in engines.items():
        for reason, count in figures.ended.items():
            family.add_metric([worker, reason], count)
    return family


def _histogram(name: str, what: str, spreads: Mapping[str, Spread]) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, what, labels=["worker"])
    for worker, spread in spreads.items():
        bounds = [*map(floatToGoString, spread.bounds), "+Inf"]
        family.add_metric([worker], list(zip(bounds, accumulate(spread.counts), strict=True)), spread.sum_s)
    return family
