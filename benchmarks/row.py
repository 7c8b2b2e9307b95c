"""One row of a benchmark: a kind of load, its rounds, and the audit behind each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from . import audit
from .sample import Sample
from .site import Server, Site

Load = Callable[[int], Sample]

_WARM_UP_SECONDS = 0.5


@dataclass
class Row:
    """A kind of load. ``guess`` is roughly its operations per second: for the first, uncounted round.

    ``server`` is whom it loads, if that is a server; ``ledger`` the database that is audited behind each round;
    ``writes`` whether its operations are deductions there; ``since`` leaves accounts with older entries out;
    ``around`` holds during each round, and what it takes to begin and to end counts for nothing.
    """

    name: str
    meaning: str
    guess: int
    load: Load
    ledger: str
    server: Server | None = None
    writes: bool = False
    unit: str = "/s"
    since: str | None = None
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    rounds: list[dict[str, Any]] = field(default_factory=list)
    _rate: float = 0.0

    def warm_up(self, site: Site) -> None:
        """A short round that tells the rate, so that later ones take as long as they shall."""
        self._rate = float(self.guess)
        self.measure(site, _WARM_UP_SECONDS)
        self.rounds.clear()

    def measure(self, site: Site, seconds: float) -> None:
        """A round of about ``seconds``, with an audit of the ledger behind it."""
        with self.around():
            self._measure(site, seconds)

    def _measure(self, site: Site, seconds: float) -> None:
        before = audit.totals(site, self.ledger)
        cpu = self._server_cpu()
        sample = self.load(max(int(self._rate * seconds), self.guess // 5))
        cpu = self._server_cpu() - cpu
        commits = audit.totals(site, self.ledger).commits - before.commits
        written = sample.written if sample.written is not None else sample.operations if self.writes else 0
        self._rate = sample.rate
        self.rounds.append(
            {
                "value": sample.rate if self.unit == "/s" else sample.figure,
                "operations": sample.operations,
                "seconds": sample.seconds,
                "generator_cpu_us": 1e6 * sample.cpu_seconds / sample.operations,
                "server_cpu_us": 1e6 * cpu / sample.operations,
                "entries_per_commit": written / commits if commits else sample.per_commit,
                "mismatches": sample.mismatches
                + audit.mismatches(site, self.ledger, before, written, self.since),
                "details": dict(sample.details),
            }
        )

    @property
    def values(self) -> list[float]:
        """The result of each round."""
        return [each["value"] for each in self.rounds]

    @property
    def mismatches(self) -> int:
        """What did not fit in all rounds together."""
        return int(sum(each["mismatches"] for each in self.rounds))

    def summary(self) -> dict[str, Any]:
        """As it goes into the results."""
        costs = ("generator_cpu_us", "server_cpu_us", "entries_per_commit")
        return {
            "meaning": self.meaning,
            "unit": self.unit,
            "median": median(self.values),
            "min": min(self.values),
            "max": max(self.values),
            **{cost: round(median(each[cost] for each in self.rounds), 1) for cost in costs},
            "details": {
                name: median(each["details"][name] for each in self.rounds)
                for name in self.rounds[0]["details"]
            },
            "mismatches": self.mismatches,
            "rounds": self.rounds,
        }

    def _server_cpu(self) -> float:
        return self.server.cpu_seconds() if self.server else 0.0
