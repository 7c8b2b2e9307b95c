"""Runs watchers under load and harm, and holds what each of them saw against the table: a RESULT line."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import psycopg
from fault_checker import Report, check
from fault_entries import unequal_accounts
from fault_history import OK, Call, read_history
from fault_run import (
    CALM_SECONDS,
    MOST_RECOVERY_SECONDS,
    Result,
    keep,
    line_head,
    p99,
    recoveries_of,
    stats_of,
)  # fmt: skip
from fault_site import SERVERS, Layout, Site
from fault_terms import Entry
from watch_notes import Notes, WatchReport, check_notes, kinds_by_account, read_notes
from watch_readers import ReadersPlan, WatcherPlan

PROCESSES = 2
LIFE = 3.0
"""Seconds that a stream lives at most before its watcher leaves it."""
PATIENCE = 45.0
"""Seconds that watchers have, after the last entry, to see what they still miss."""
LEAST_STREAMS = 3
"""Streams per watcher."""

_COUNT = "SELECT coalesce(sum(revision), 0) FROM account"

GoesOn = Callable[[], bool]


@dataclass(frozen=True)
class WatchFault:
    """Watchers of one account each, of several and of all, while ``entries`` come to be.

    ``harm`` goes on for as long as that lasts, and has to be done ``faults`` times. After ``seconds`` no more entries
    are waited for. More than ``most_lag`` seconds for half of the entries of other servers make it fail.
    """

    name: str
    entries: int
    harm: Callable[[Site, GoesOn], None]
    faults: int
    layout: Layout
    ones: int = 28
    several: int = 20
    everything: int = 2
    seconds: float = 90.0
    most_lag: float = float("inf")

    @property
    def watchers(self) -> int:
        """How many there are."""
        return self.ones + self.several + self.everything


@dataclass
class _Seen:
    """What is known of all watchers together."""

    report: WatchReport = field(default_factory=WatchReport)
    ends: Counter[str] = field(default_factory=Counter)
    delivered: int = 0
    summaries: int = 0
    resumed: int = 0
    lags: list[float] = field(default_factory=list)

    def add(self, notes: Notes, origins: Mapping[tuple[str, int], int]) -> None:
        """Counts a watcher's notes; ``origins`` tells which server wrote an entry."""
        self.ends += notes.ends
        self.delivered += len(notes.told)
        self.summaries += sum(not told.kind for told in notes.told)
        self.resumed += notes.resumed
        self.lags += [
            told.lag
            for told in notes.told
            if told.live and origins.get((told.account_id, told.first), told.target) != told.target
        ]


def run_watchers(fault: WatchFault, seed: int, share: float = 1.0) -> Result:
    """Runs a fault with a ``share`` of its entries, and checks everything."""
    random.seed(seed)
    with Site(fault.layout, seed) as site:
        readers = [site.client(plan, "watch_readers.py") for plan in _plans(fault, site)]
        for reader in readers:
            reader.await_ready()
        site.start_load()
        fault.harm(site, _until_there(site, fault.entries * share, fault.seconds))
        time.sleep(CALM_SECONDS)
        site.end_load()
        finished = site.finish(watch=False)
        until = dict(site.rows("SELECT account_id, revision FROM account"))
        for reader in readers:
            reader.command({"until": until, "patience": PATIENCE})
        for reader in readers:
            reader.result()
        calls, entries = read_history(site.histories()), site.entries()
        report = check(calls, entries, away=site.away)
        with psycopg.connect(site.dsn) as conn:
            for account_id in unequal_accounts(conn):
                report.add("wrong", f"{account_id} does not stand as its newest entry says")
        seen = _look(site, calls, entries, until, finished["revisions"])
        result = _judge(fault, site, share, calls, len(entries), report, seen, finished["unresolved"])
        if result.verdict == "FAIL":
            result.details.append(f"the histories are kept in {keep(site)}")
    return result


def kill_servers(site: Site, goes_on: GoesOn) -> None:
    """kill -9 of a server every few seconds."""
    while goes_on():
        number = site.random.randrange(SERVERS)
        site.servers[number].kill()
        time.sleep(site.random.uniform(0.05, 0.4))
        site.start_server(number)
        site.over()
        _wait(site.random.uniform(1.5, 3.5), goes_on)


def count_overtaken(site: Site, goes_on: GoesOn) -> None:
    """The proxy delays COMMITs; here those are counted that became visible behind a later position."""
    newest, seen = 0, set[int]()
    with psycopg.connect(site.dsn, autocommit=True) as conn:
        while goes_on():
            query = "SELECT position FROM commit_log WHERE position > %s"
            found = {row[0] for row in conn.execute(query, [newest - 2_000])} - seen
            late = [position for position in found if position < newest]
            site.events += [time.monotonic()] * len(late)
            newest = max([newest, *found])
            seen = {position for position in seen | found if position > newest - 2_000}
            time.sleep(0.01)


def _wait(seconds: float, goes_on: GoesOn) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and goes_on():
        time.sleep(0.1)


def _until_there(site: Site, entries: float, seconds: float) -> GoesOn:
    """Until so many entries have been written, or so many seconds are over."""
    end = time.monotonic() + seconds
    return lambda: site.rows(_COUNT)[0][0] < entries and time.monotonic() < end


def _plans(fault: WatchFault, site: Site) -> list[ReadersPlan]:
    """The watchers, shared out to processes. Half of those who get snapshots begin in the midst of the load."""
    chance, accounts = site.random, site.accounts
    watched = [[account_id] for account_id in chance.sample(accounts, fault.ones)]
    watched += [sorted(chance.sample(accounts, chance.randint(2, 12))) for _ in range(fault.several)]
    plans = [
        WatcherPlan(f"w{number:02}", account_ids, chance.choice((0.0, chance.uniform(0, 5))))
        for number, account_ids in enumerate(watched)
    ]
    plans += [WatcherPlan(f"w{len(plans) + number:02}", [], 0.0) for number in range(fault.everything)]
    return [
        ReadersPlan(
            str(site.folder), site.targets, [asdict(plan) for plan in plans[n::PROCESSES]], site.seed, LIFE
        )
        for n in range(PROCESSES)
    ]


def _look(
    site: Site,
    calls: Sequence[Call],
    entries: Sequence[Entry],
    until: Mapping[str, int],
    starts: Mapping[str, int],
) -> _Seen:
    seen = _Seen()
    table = kinds_by_account(entries)
    origins = {
        (call.account_id, call.revision): call.target
        for call in calls
        if call.mutates and call.outcome == OK and not call.replayed and call.revision is not None
    }
    for file in sorted(site.folder.glob("*.watch")):
        notes = read_notes(file)
        mine = {name: until[name] for name in notes.starts} if notes.starts else until
        check_notes(notes, table, starts, mine, seen.report)
        seen.add(notes, origins)
    return seen


def _judge(
    fault: WatchFault, site: Site, share: float, calls: Sequence[Call], entries: int, report: Report, seen: _Seen,
    unresolved: int,
) -> Result:  # fmt: skip
    stats = stats_of(calls)
    recover = p99(recoveries_of(site.events, calls)) if fault.harm is kill_servers else 0.0
    half = median(seen.lags) if seen.lags else 0.0
    failures = [*site.failures, *_missed_floors(fault, share, len(site.events), entries, seen)]
    if recover > MOST_RECOVERY_SECONDS:
        failures.append(f"recovery takes more than {MOST_RECOVERY_SECONDS:.0f} s")
    if half > fault.most_lag:
        failures.append(f"half of what the other server wrote came after more than {fault.most_lag:g} s")
    if unresolved:
        failures.append(f"unresolved requests: {unresolved}")
    verdict = "PASS" if report.clean and seen.report.clean and not failures else "FAIL"
    seen.report.add_to(report)
    line = (
        f"{line_head(fault.name, site.seed, stats, len(site.events), report)} {seen.report.words()} entries={entries}"
        f" watchers={fault.watchers} streams={seen.ends.total()} delivered={seen.delivered}"
        f" lag_p50_ms={half * 1_000:.0f} lag_p99_ms={p99(seen.lags) * 1_000:.0f}"
        f" recover_p99_ms={recover * 1_000:.0f} {verdict}"
    )
    if failures:
        line += f" ({'; '.join(failures)})"
    ends = " ".join(f"{why}={count}" for why, count in sorted(seen.ends.items()))
    note = f"streams that ended: {ends}; told something missed: {seen.resumed}; summaries: {seen.summaries}"
    return Result(line, verdict, [*site.notes, note, *report.examples, *seen.report.examples])


def _missed_floors(fault: WatchFault, share: float, faults: int, entries: int, seen: _Seen) -> list[str]:
    least: dict[str, tuple[int, float]] = {
        "entries": (entries, fault.entries * share),
        "faults": (faults, fault.faults * share),
        "streams": (seen.ends.total(), LEAST_STREAMS * fault.watchers * share),
        "resumed": (seen.resumed, fault.watchers * share),
        "lags": (len(seen.lags), fault.entries * share / 10),
    }
    return [
        f"floor of {name}: {count} < {floor:.0f}" for name, (count, floor) in least.items() if count < floor
    ]


_LOAD = {
    "batch": (60, 140), "credits": 10**9, "operation": "chat_refinement", "hot": 0.05, "resent": 0.0, "insist": True,
}  # fmt: skip


def _layout(load: Mapping[str, Any] = _LOAD, **fields: Any) -> Layout:
    return Layout(accounts=200, callers=3, load=dict(load), **fields)


WATCH_FAULTS = [
    WatchFault("watchers", 100_000, kill_servers, 5, _layout()),
    WatchFault(
        "watchers_without_hints", 20_000, kill_servers, 1, _layout(env={"CREDITLEDGER_WATCH_HINTS": "false"})
    ),
    WatchFault(
        "watchers_slow_poll", 20_000, kill_servers, 1, _layout(env={"CREDITLEDGER_WATCH_POLL_MS": "10000"}),
        most_lag=1.0,
    ),
    WatchFault(
        "watchers_out_of_order", 8_000, count_overtaken, 100,
        _layout(
            {**_LOAD, "batch": (2, 8), "hot": 0.01}, through=True, delay=0.1, env={"CREDITLEDGER_LANES": "16"},
        ),
        ones=4, several=4, everything=12,
    ),
]  # fmt: skip
