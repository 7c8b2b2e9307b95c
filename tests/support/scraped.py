"""What a server tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.request import urlopen

from ledger_harness import ServerProcess
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT = 30.0
"""Seconds; only ends a scrape that would hang."""


@dataclass(frozen=True)
class Sample:
    """One line: a name with its suffix (_total, _bucket, _sum, _count), labels and value."""

    name: str
    labels: dict[str, str]
    value: float


class Scrape:
    """The metrics of a server at one moment."""

    def __init__(self, url: str) -> None:
        with urlopen(url, timeout=TIMEOUT) as answer:
            self.text: str = answer.read().decode()
        families = text_string_to_metric_families(self.text)
        self.samples = [
            Sample(sample.name.removeprefix("creditledger_"), dict(sample.labels), sample.value)
            for family in families
            for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 if there is none. ``name`` without the prefix."""
        return sum(each.value for each in self._of(name, labels))

    def told(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """A metric's values by some of its labels."""
        return {tuple(each.labels[label] for label in labels): each.value for each in self._of(name, {})}

    def _of(self, name: str, labels: dict[str, str]) -> Iterable[Sample]:
        return [each for each in self.samples if each.name == name and labels.items() <= each.labels.items()]


def scrape(server: ServerProcess) -> Scrape:
    """What the one process of a server tells."""
    [url] = server.metrics
    return Scrape(url)
