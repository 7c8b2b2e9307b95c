"""Runs one fault and judges it: the RESULT line."""

from __future__ import annotations

import bisect
import json
import math
import random
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from fault_checker import Report, Watched, check
from fault_entries import unequal_accounts
from fault_history import OK, REFUSALS, UNKNOWN, UNTRIED, Call, read_history
from fault_list import Fault
from fault_site import Site
from fault_terms import Entry

WARM_UP_SECONDS = 1.0
CALM_SECONDS = 1.5
MOST_RECOVERY_SECONDS = 10.0
LEAST_REFUSED = 0.05
LEAST_REPLAYS_PER_SECOND = 4
LEAST_REUSED_PER_SECOND = 2


@dataclass(frozen=True)
class Result:
    """How a run ended: PASS, FAIL or SKIP, and the line that tells it."""

    line: str
    verdict: str
    details: list[str]


@dataclass(frozen=True)
class Stats:
    """What happened under load. ``unknown`` counts requests, by what resolving them told."""

    ops: int
    ok: int
    refused: int
    untried: int
    replays: int
    reused: int
    left: int
    unknown_executed: int
    unknown_unexecuted: int

    @property
    def unknown(self) -> int:
        """Requests whose outcome was unknown."""
        return self.unknown_executed + self.unknown_unexecuted


def run_fault(fault: Fault, seed: int, seconds: float | None = None) -> Result:
    """Runs a fault for so many seconds, or for its own, and checks everything."""
    if reason := fault.unfit():
        return Result(f"RESULT test={fault.name} seed={seed} SKIP ({reason})", "SKIP", [])
    seconds = seconds or fault.seconds
    random.seed(seed)  # for proxies; sites and clients have generators of their own
    with Site(fault.layout, seed) as site:
        site.start_load()
        time.sleep(WARM_UP_SECONDS)
        fault.inject(site, seconds)
        time.sleep(CALM_SECONDS)
        site.end_load()
        finished = site.finish()
        calls = read_history(site.histories())
        report = check(calls, site.entries(), watched=_watched(finished), away=site.away)
        with psycopg.connect(site.dsn) as conn:
            for account_id in unequal_accounts(conn):
                report.add("wrong", f"{account_id} does not stand as its newest entry says")
        result = _judge(fault, site, seconds, calls, report, finished["unresolved"])
        if result.verdict == "FAIL":
            result.details.append(f"the histories are kept in {keep(site)}")
    return result


def _judge(
    fault: Fault, site: Site, seconds: float, calls: Sequence[Call], report: Report, unresolved: int
) -> Result:
    stats = stats_of(calls)
    faults = len(site.events) or stats.left
    recover = p99(recoveries_of(site.events, calls))
    failures = [*site.failures, *_missed_floors(fault, stats, faults, seconds)]
    if recover > MOST_RECOVERY_SECONDS:
        failures.append(f"recovery takes more than {MOST_RECOVERY_SECONDS:.0f} s")
    if fault.most_unknown is not None and stats.unknown > fault.most_unknown:
        failures.append(f"failed calls: {stats.unknown}")
    if unresolved:
        failures.append(f"unresolved requests: {unresolved}")
    verdict = "PASS" if report.clean and not failures else "FAIL"
    head = line_head(fault.name, site.seed, stats, faults, report)
    line = f"{head} recover_p99_ms={recover * 1_000:.0f} {verdict}"
    if failures:
        line += f" ({'; '.join(failures)})"
    return Result(line, verdict, [*site.notes, *_away_notes(site, calls), *report.examples])


def _missed_floors(fault: Fault, stats: Stats, faults: int, seconds: float) -> list[str]:
    """Which floors a run did not reach; a shorter run has lower ones."""
    share = min(1.0, seconds / fault.seconds)
    floors = fault.floors
    least = {
        "ops": (stats.ops, floors.ops_per_second * seconds),
        "refused": (stats.refused, LEAST_REFUSED * stats.ops),
        "replays": (stats.replays, LEAST_REPLAYS_PER_SECOND * seconds * min(1, floors.ops_per_second / 60)),
        "reused": (stats.reused, LEAST_REUSED_PER_SECOND * seconds * min(1, floors.ops_per_second / 60)),
        "faults": (faults, floors.faults * share),
        "unknown": (stats.unknown, floors.unknown * share),
        "unknown_executed": (stats.unknown_executed, floors.executed * share),
        "unknown_unexecuted": (stats.unknown_unexecuted, floors.unexecuted * share),
        "untried": (stats.untried, floors.untried * share),
    }
    return [
        f"floor of {name}: {seen} < {math.ceil(floor)}"
        for name, (seen, floor) in least.items()
        if seen < math.floor(floor)
    ]


def line_head(name: str, seed: int, stats: Stats, faults: int, report: Report) -> str:
    """What the lines of all faults begin with."""
    return (
        f"RESULT test={name} seed={seed} ops={stats.ops} ok={stats.ok} refused={stats.refused}"
        f" unknown={stats.unknown} unknown_executed={stats.unknown_executed} faults={faults} {report.words()}"
    )


def p99(values: Sequence[float]) -> float:
    """The least value that 99 of 100 do not exceed; 0 of none."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1] if values else 0.0


def stats_of(calls: Sequence[Call]) -> Stats:
    """What happened in these calls."""
    load = [call for call in calls if not call.resolving]
    executed = unexecuted = 0
    for request in _requests(calls).values():
        match _came_true(request):
            case True:
                executed += 1
            case False:
                unexecuted += 1
    return Stats(
        ops=len(load),
        ok=sum(call.outcome == OK for call in load),
        refused=sum(call.outcome in REFUSALS for call in load),
        untried=sum(call.outcome in UNTRIED for call in load),
        replays=sum(call.replayed for call in load),
        reused=sum(call.outcome == "REQUEST_ID_REUSED" for call in load),
        left=sum(call.outcome in ("DEADLINE_EXCEEDED", "CANCELLED", "DEADLINE_PASSED") for call in load),
        unknown_executed=executed,
        unknown_unexecuted=unexecuted,
    )


def _requests(calls: Sequence[Call]) -> dict[tuple[str, ...], list[Call]]:
    """The calls of each request: those of one id and content."""
    requests: dict[tuple[str, ...], list[Call]] = defaultdict(list)
    for call in calls:
        if call.mutates:
            key = (call.kind, call.account_id, call.request_id, json.dumps(call.content))
            requests[key].append(call)
    return requests


def _came_true(calls: Sequence[Call]) -> bool | None:
    """Whether a request had been executed when it was first resolved; None if its outcome was never unknown."""
    unknown = [call for call in calls if call.outcome in UNKNOWN and not call.resolving]
    if not unknown or any(call.outcome == OK and call.begin < unknown[0].begin for call in calls):
        return None
    for call in calls:
        if call.begin > unknown[0].begin and (call.outcome == OK or call.outcome in REFUSALS):
            return call.replayed
    return None


def recoveries_of(events: Sequence[float], calls: Sequence[Call]) -> list[float]:
    """After each fault, the seconds until every server has again accepted a call that was sent after it."""
    by_target: dict[int, list[Call]] = defaultdict(list)
    for call in calls:
        if call.mutates and call.outcome == OK and not call.resolving:
            by_target[call.target].append(call)
    slowest = [0.0] * len(events)
    for accepted in by_target.values():
        begins = [call.begin for call in accepted]
        ends = _earliest_end_from(accepted)
        for place, event in enumerate(events):
            first = bisect.bisect_right(begins, event)
            end = ends[first] if first < len(ends) else math.inf
            slowest[place] = max(slowest[place], end - event)
    return slowest


def _earliest_end_from(calls: Sequence[Call]) -> list[float]:
    """For each place, the earliest end of the calls from there on."""
    ends = [call.end or math.inf for call in calls]
    for place in range(len(ends) - 2, -1, -1):
        ends[place] = min(ends[place], ends[place + 1])
    return ends


def _away_notes(site: Site, calls: Sequence[Call]) -> list[str]:
    """What was answered while the database was away, if it ever was."""
    if not site.away:
        return []
    inside = [
        call
        for call in calls
        if call.end is not None and any(away.begin < call.begin and call.end < away.end for away in site.away)
    ]
    allowed = sum(bool(call.facts.get("allowed")) for call in inside)
    ok = sum(call.outcome == OK for call in inside)
    return [f"away: times={len(site.away)} calls={len(inside)} allowed={allowed} ok={ok}"]


def _watched(finished: dict[str, Any]) -> list[Watched]:
    return [
        Watched(name, finished["revisions"], [Entry(**entry) for entry in entries])
        for name, entries in zip(("of all accounts", "of named accounts"), finished["watched"], strict=True)
    ]


def keep(site: Site) -> Path:
    """Copies the histories and the servers' logs to where they outlive the run."""
    kept = Path(tempfile.mkdtemp(prefix="faults-failed-"))
    for file in [*site.histories(), *site.folder.glob("*.watch"), *(site.folder / "pg").glob("*.log")]:
        shutil.copy(file, kept)
    for number, server in enumerate(site.servers):
        (kept / f"server-{number}.log").write_text(server.log())
    return kept
