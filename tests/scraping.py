"""What a Prometheus reads off our page."""

from prometheus_client.parser import text_string_to_metric_families


def engine_samples(page: str) -> dict[str, float]:
    """The engines' numbers on a page, each under its name with the worker, then its other label."""
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name, matched, rest = sample.name.partition("switchyard_engine_")
            if matched and not name:
                others = [value for label, value in sample.labels.items() if label != "worker"]
                found[f"{rest}{{{','.join([sample.labels['worker'], *others])}}}"] = sample.value
    return found
