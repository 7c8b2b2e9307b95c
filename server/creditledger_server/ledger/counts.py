"""What a process counts as it works: plain numbers, so cheap that they are always counted, whoever reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for times: what a healthy server takes lies in the lower half."""

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class Distribution:
    """How many values lie between bounds: ``counts[i]`` are above bound i - 1 and not above bound i."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class WriteCounts:
    """The transactions of writes: how many requests each took; waiting, loading and committing in seconds."""

    def __init__(self) -> None:
        self.sizes = Distribution(SIZES)
        self.lock_waits = Distribution()
        self.loads = Distribution()
        self.commits = Distribution()
