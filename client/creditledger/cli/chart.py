# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""Usage over time, drawn with characters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from creditledger.cli.tables import table
from creditledger.cli.units import Amounts, duration_text

if TYPE_CHECKING:
    from creditledger.v1.credit_ledger_pb2 import UsageRow

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_LONGEST = 60
"""Characters of the bar of the largest bucket, where there is room."""


@dataclass(frozen=True)
class Span:
    """Buckets of time up to the present one."""

    start: date
    today: date
    bucket: str
    zone: tzinfo

    @classmethod
    def before(cls, now: datetime, days: int, bucket: str, zone: tzinfo) -> Span:
        """The last so many days, today among them, from the beginning of the bucket in which the first one lies."""
        today = now.astimezone(zone).date()
        first = today - timedelta(days=days - 1)
        return cls(_begin(first, bucket), today, bucket, zone)

    @property
    def start_time(self) -> datetime:
        """The midnight at which the first bucket begins."""
        return datetime(self.start.year, self.start.month, self.start.day, tzinfo=self.zone)

    def buckets(self) -> list[date]:
        """The first day of each bucket."""
        found = [self.start]
        while (following := _next(found[-1], self.bucket)) <= self.today:
            found.append(following)
        return found


def _begin(day: date, bucket: str) -> date:
    if bucket == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if bucket == "month" else day


def _next(start: date, bucket: str) -> date:
    if bucket == "month":
        return (start + timedelta(days=31)).replace(day=1)
    return start + timedelta(days=7 if bucket == "week" else 1)


class Chart:
    """Bars of credits, divided by operation, each of which has a colour of its own."""

    def __init__(self, operations: Iterable[str], amounts: Amounts, room: int, block: str) -> None:
        """Args: room: characters to a line; block: what bars are made of."""
        self._colours = {
            operation: _COLOURS[i % len(_COLOURS)] for i, operation in enumerate(sorted(set(operations)))
        }
        self._amounts = amounts
        self._room = room
        self._block = block

    def over_time(self, rows: Iterable[UsageRow], span: Span) -> Table:
        """A bar for every bucket, also where nothing happened."""
        spent: dict[date, dict[str, int]] = defaultdict(dict)
        for row in rows:
            day = row.bucket_start.ToDatetime(UTC).astimezone(span.zone).date()
            spent[day][row.operation] = row.credits
        return self._bars(span.bucket, {f"{day}": spent[day] for day in span.buckets()})

    def _bars(self, title: str, spent: Mapping[str, Mapping[str, int]]) -> Table:
        totals = {label: sum(parts.values()) for label, parts in spent.items()}
        made = table(title, ">credits", "")
        texts = [self._amounts.text(total) for total in totals.values()]
        # What the two columns before the bars leave, which end in two spaces each.
        left = self._room - max(map(len, totals)) - max(7, *map(len, texts)) - 4
        peak = max(*totals.values(), 1)
        for (label, parts), text in zip(spent.items(), texts, strict=True):
            made.add_row(label, text, self._bar(parts, peak, max(1, min(left, _LONGEST))))
        return made

    def _bar(self, parts: Mapping[str, int], peak: int, longest: int) -> Text:
        """Whole characters, at least one for what is not nothing; a bucket of refunds only has no bar."""
        positive = {operation: amount for operation, amount in sorted(parts.items()) if amount > 0}
        total = sum(positive.values())
        bar = Text(no_wrap=True)
        if total == 0:
            return bar
        length = max(1, min(longest, round(total * longest / peak)))
        drawn = done = 0
        for operation, amount in positive.items():
            done += amount
            end = round(done * length / total)
            bar.append(self._block * (end - drawn), style=self._colours[operation])
            drawn = end
        return bar

    def by_operation(self, rows: Iterable[UsageRow]) -> Table:
        """What each operation came to; its name has the colour of its part of the bars."""
        made = table("operation", ">uses", ">failed", ">credits", ">average", ">response", "metrics")
        for row in rows:
            made.add_row(
                Text(row.operation, style=self._colours[row.operation]),
                str(row.uses),
                str(row.failures),
                self._amounts.text(row.credits),
                self._amounts.average(row.average_credits),
                duration_text(row.response_time) if row.HasField("response_time") else "",
                " ".join(f"{name}={value}" for name, value in sorted(row.metrics.items())),
            )
        return made
