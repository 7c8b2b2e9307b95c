"""All catalogs that a ledger has had: which one was current when, and when they bring allowances."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .catalog import Allowance, Catalog
from .periods import DAY_US, Period, period_end, period_start


class CatalogVersion(NamedTuple):
    """A catalog and when it became current (microseconds)."""

    version: int
    catalog: Catalog
    create_time: int


EMPTY = CatalogVersion(0, Catalog(operations={}, levels={}, default_level="", packages={}), 0)
"""What is current before the first UpdateCatalog: nothing to charge, no level to be on."""


class AllowanceStart(NamedTuple):
    """A period begins at ``time``, and with it an allowance."""

    time: int
    allowance: Allowance
    version: int


class CatalogBook:
    """The versions of the catalog by rising number. Never changes: a newer catalog makes a new book."""

    def __init__(self, versions: Sequence[CatalogVersion] = ()) -> None:
        self.versions = tuple(versions) or (EMPTY,)
        self.version, self.current, _ = self.versions[-1]
        self._numbers = {each.version: each.catalog for each in self.versions}
        self._times = [each.create_time for each in self.versions]
        self._bring = any(level.allowance for each in self.versions for level in each.catalog.levels.values())
        self._last_starts: dict[tuple[str, int], int] = {}

    def of_version(self, version: int) -> Catalog:
        """The catalog of a version that entries name."""
        return self._numbers[version]

    def at(self, time: int) -> CatalogVersion:
        """The catalog that was current at a time."""
        return self.versions[max(0, bisect_right(self._times, time) - 1)]

    def last_start(self, level: str, now: int) -> int:
        """When the level last brought an allowance by the beginning of a period; 0 if it never did."""
        if not self._bring:
            return 0
        key = level, now // DAY_US  # all periods begin at midnight
        if (start := self._last_starts.get(key)) is None:
            start = self._last_starts[key] = self._find_last_start(level, now)
        return start

    def starts(self, level: str, after: int, until: int) -> Iterator[AllowanceStart]:
        """Every period later than ``after`` and not later than ``until`` that brought the level an allowance."""
        for (version, catalog, begin), end in zip(self.versions, [*self._times[1:], until + 1], strict=True):
            allowance = _recurring(catalog, level)
            first, last = max(begin, after + 1), min(end - 1, until)
            if allowance and first <= last:
                yield from _starts(allowance, version, first, last)

    def _find_last_start(self, level: str, now: int) -> int:
        end = now
        for _, catalog, begin in reversed(self.versions):
            allowance = _recurring(catalog, level)
            if allowance and (start := period_start(allowance.period, end)) >= begin:
                return start
            end = min(end, begin - 1)
        return 0


def _starts(allowance: Allowance, version: int, first: int, last: int) -> Iterator[AllowanceStart]:
    time: int | None = period_start(allowance.period, first)
    if time is not None and time < first:
        time = period_end(allowance.period, first)
    while time is not None and time <= last:
        yield AllowanceStart(time, allowance, version)
        time = period_end(allowance.period, time)


def _recurring(catalog: Catalog, level: str) -> Allowance | None:
    known = catalog.levels.get(level)
    allowance = known.allowance if known else None
    return allowance if allowance and allowance.period is not Period.LIFETIME else None
