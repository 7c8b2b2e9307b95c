"""What a watcher noted over all of its streams, held against the table of entries: exactly, revision by revision.

The notes of a watcher are lines of fields separated by tabs:

>          number of the server, cursor             a stream begins
<          why                                      it has ended
snapshot   account, revision, cursor                where an account stood
change     account, revision, kind, lag, cursor     an entry; lag in seconds since its create_time
summary    account, first, last, changes, cursor    the entries of a range of revisions, told together
caught_up  cursor                                   what follows is live
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fault_checker import WORDS, Report
from fault_terms import Entry

_EXAMPLES = 5


class Told(NamedTuple):
    """Revisions of an account that came in one message; ``kind`` is "" for a summary. ``target`` sent it.

    ``live``: not missed before, so that ``lag`` tells how long it was under way, in seconds.
    """

    account_id: str
    first: int
    last: int
    kind: str
    target: int
    live: bool
    lag: float


@dataclass
class Notes:
    """All that a watcher noted. ``starts`` are the revisions of its snapshots."""

    name: str
    starts: dict[str, int] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    resumed: int = 0  # streams that were resumed by a cursor and told something that had been missed
    mistakes: list[str] = field(default_factory=list)


@dataclass
class WatchReport:
    """What was found of all watchers, with a few examples of each word: gaps, repeats, reordered, wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, word: str, what: str, count: int = 1) -> None:
        """Counts findings."""
        if self.counts[word] < _EXAMPLES:
            self.examples.append(f"{word}: {what}")
        self.counts[word] += count

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.counts

    def words(self) -> str:
        """The counts of the words that only watchers have."""
        return f"repeats={self.counts['repeats']} reordered={self.counts['reordered']}"

    def add_to(self, report: Report) -> None:
        """Adds what was found to the words that all faults have."""
        for word in WORDS:
            if self.counts[word]:
                report.counts[word] += self.counts[word]


def read_notes(path: Path) -> Notes:
    """Reads the file of a watcher."""
    notes = Notes(path.stem)
    stream = _Stream(notes, 0, "")
    for line in path.read_text().splitlines():
        match line.split("\t"):
            case [">", target, cursor]:
                stream = _Stream(notes, int(target), cursor)
            case ["<", why]:
                notes.ends[why] += 1
            case [what, *fields]:
                stream.note(what, fields)
    return notes


class _Stream:
    def __init__(self, notes: Notes, target: int, cursor: str) -> None:
        self._notes = notes
        self._target = target
        self._resumes = bool(cursor)
        self._live = not cursor
        self._told = 0

    def note(self, what: str, fields: list[str]) -> None:
        """One message."""
        match what:
            case "snapshot":
                self._note_snapshot(fields[0], int(fields[1]))
            case "change":
                self._tell(fields[0], int(fields[1]), int(fields[1]), fields[2], float(fields[3]))
            case "summary":
                first, last, changes = map(int, fields[1:4])
                if changes != last + 1 - first:
                    self._notes.mistakes.append(
                        f"a summary of {fields[0]} from {first} to {last} has {changes}"
                    )
                self._tell(fields[0], first, last, "", 0.0)
            case "caught_up":
                self._catch_up()

    def _note_snapshot(self, account_id: str, revision: int) -> None:
        if account_id in self._notes.starts:
            self._notes.mistakes.append(f"a second snapshot of {account_id}")
        self._notes.starts[account_id] = revision

    def _tell(self, account_id: str, first: int, last: int, kind: str, lag: float) -> None:
        self._notes.told.append(Told(account_id, first, last, kind, self._target, self._live, lag))
        self._told += 1

    def _catch_up(self) -> None:
        if self._live:
            self._notes.mistakes.append("caught_up of a stream that was live")
        self._live = True
        self._notes.resumed += self._resumes and self._told > 0


def kinds_by_account(entries: Iterable[Entry]) -> dict[str, dict[int, str]]:
    """The kind of each entry by account and revision."""
    table: dict[str, dict[int, str]] = defaultdict(dict)
    for entry in entries:
        table[entry.account_id][entry.revision] = entry.kind
    return table


def check_notes(
    notes: Notes,
    table: Mapping[str, Mapping[int, str]],
    starts: Mapping[str, int] | None,
    until: Mapping[str, int],
    report: WatchReport,
) -> None:
    """Holds a watcher against the kinds of all entries by account and revision.

    It has to have seen what comes after its snapshot, or after ``starts`` if it has none because it watches all, up
    to ``until`` and to the last that it saw: all of it, once, and in order. ``starts`` None: from the first on that it
    saw.
    """
    for mistake in notes.mistakes:
        report.add("wrong", f"{notes.name}: {mistake}")
    told_of: dict[str, list[Told]] = defaultdict(list)
    for told in notes.told:
        told_of[told.account_id].append(told)
    for account_id in told_of.keys() | until.keys():
        kinds = table.get(account_id, {})
        seen = _check_order(f"{notes.name}: {account_id}", told_of[account_id], kinds, report)
        start = notes.starts.get(account_id, min(seen, default=1) - 1)
        if starts is not None and account_id not in notes.starts:
            start = min(start, starts.get(account_id, 0)) if seen else starts.get(account_id, 0)
        last = max([until.get(account_id, 0), *seen])
        if missing := [revision for revision in kinds if start < revision <= last and revision not in seen]:
            words = (
                f"{notes.name}: {account_id}: {len(missing)} revisions are missing, at first {missing[:3]}"
            )
            report.add("gaps", words, len(missing))
        if early := [revision for revision in seen if revision <= start]:
            report.add(
                "repeats", f"{notes.name}: {account_id}: {early[:3]} came after its snapshot", len(early)
            )


def _check_order(where: str, told: Iterable[Told], kinds: Mapping[int, str], report: WatchReport) -> set[int]:
    """Checks the order in which the revisions of an account came; returns them."""
    seen: set[int] = set()
    newest = 0
    for each in told:
        for revision in range(each.first, each.last + 1):
            if revision in seen:
                report.add("repeats", f"{where}: revision {revision} comes again")
            elif revision < newest:
                report.add("reordered", f"{where}: revision {revision} comes after {newest}")
            if revision not in kinds:
                report.add("wrong", f"{where}: there is no revision {revision}")
            elif each.kind and each.kind != kinds[revision]:
                report.add("wrong", f"{where}: revision {revision} is {kinds[revision]}, not {each.kind}")
            seen.add(revision)
            newest = max(newest, revision)
    return seen
