"""Watchers that stop reading while much is written: what they cost the server, and how their streams end.

First a slice with them and a slice without, in turn, under the same load, for what they do to the time of a Deduct. The
last of them stay, and ``ENTRIES`` entries are written as fast as can be, while the server's memory is looked at. Some
read on while they may still hope; the others when it is too late.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import psutil
from fault_checker import check
from fault_history import OK, REFUSALS, Call, read_history
from fault_kinds import MIX
from fault_run import CALM_SECONDS, Result, keep, line_head, p99, stats_of
from fault_site import CLIENTS, Client, Layout, Site
from slow_streams import SlowPlan
from watch_notes import WatchReport, check_notes, kinds_by_account, read_notes

ENTRIES = 100_000
ROUNDS = 3
SLICE = 3.0
"""Seconds."""
HOT, EVERYTHING = 60, 40
"""Streams of one account, and of all."""
RATE = 15.0
"""Batches per second of all clients together, in the slices."""
PROBES = 250.0
"""Deductions per second whose time is taken."""
TOO_SLOW = 30.0
"""Seconds without progress after which a stream ends."""
RESUMED_AFTER = 6.0
RESUMED = 4
"""So many streams of the one account, and one of all, are read again after ``RESUMED_AFTER`` seconds."""
SETTLE = 0.5
"""Seconds of looking at whether the server still fills the windows of streams that are not read."""
STILL = 0.3
"""Share of a core that it takes at most when it does not."""
MOST_MEMORY = 64 << 20
MOST_RATIO = 1.2
MOST_SECONDS = 120.0
LEAST_TOO_SLOW = 50
LEAST_PROBES = 300
"""Per slice."""

LAYOUT = Layout(
    accounts=200,
    load={
        "batch": (60, 140), "credits": 10**9, "operation": "chat_refinement", "hot": 0.3,
        "without": [what for what in MIX if what != "batch"],
    },
)  # fmt: skip
_PROBE = [what for what in MIX if what != "deduct"]

_COUNT = "SELECT coalesce(sum(revision), 0) FROM account"


class Slice(NamedTuple):
    """Some seconds, and whether there were slow readers."""

    there: bool
    begin: float
    end: float


class Memory:
    """By how many bytes the memory of a process has grown at most from now on."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._first = self._most = process.memory_info().rss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def growth(self) -> int:
        """Ends the looking."""
        self._ended.set()
        self._thread.join()
        return self._most - self._first

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self._most = max(self._most, self._process.memory_info().rss)


def run_slow_readers(seed: int) -> Result:
    """Runs all of it, and checks everything."""
    random.seed(seed)
    with Site(LAYOUT, seed) as site:
        plan = SlowPlan(str(site.folder), site.targets[0], site.accounts[0], HOT, EVERYTHING)
        slow = site.client(plan, "slow_streams.py")
        site.start_load()
        probe = site.client(replace(site.plan("load", "probe"), targets=site.targets[:1], without=_PROBE))
        probe.await_ready()
        site.command({"rate": RATE / CLIENTS, "timeout": 10.0})
        probe.command({"rate": PROBES, "timeout": 10.0})
        time.sleep(SLICE)
        memory = Memory(psutil.Process(site.servers[0].process.pid))
        slices = _measure(slow, psutil.Process(site.servers[0].process.pid))
        written = _press(site, slow)
        growth = memory.growth()
        probe.command({"stop": True})
        probe.result()
        time.sleep(CALM_SECONDS)
        site.end_load()
        finished = site.finish(watch=False)
        slow.command({"end": dict(site.rows("SELECT account_id, revision FROM account"))})
        ends = slow.result()
        calls = read_history(site.histories())
        stopped, resumed = Counter(ends["stopped"]), Counter(ends["resumed"])
        alone, beside = (
            [_times(calls, each) for each in slices if each.there is there] for there in (False, True)
        )
        measured = _Measured(alone, beside, growth, written, stopped, resumed)
        result = _judge(site, calls, measured, finished["unresolved"])
        if result.verdict == "FAIL":
            result.details.append(f"the histories are kept in {keep(site)}")
    return result


def _measure(slow: Client, server: psutil.Process) -> list[Slice]:
    """Slices without slow readers and with them, as ABBAAB…, so that what changes by itself does so for both.

    Streams are like any others until all windows between them and who does not read are full: that is not measured.
    """
    slices: list[Slice] = []
    there = False
    for number in range(2 * ROUNDS):
        if there != (number % 4 in (1, 2)):
            there = not there
            slow.ask({"open": f"s{number}"} if there else {"close": True})
        _await(lambda: _share_of_core(server) < STILL, time.monotonic() + MOST_SECONDS)
        begin = time.monotonic()
        time.sleep(SLICE)
        slices.append(Slice(there, begin, time.monotonic()))
    assert there, "the last readers stay"
    return slices


def _press(site: Site, slow: Client) -> int:
    """Writes all the entries while the readers do not read; returns how many it were."""
    [[before]] = site.rows(_COUNT)
    begin = time.monotonic()
    site.command({"callers": 3})
    _sleep_until(begin + RESUMED_AFTER)
    slow.ask({"resume": RESUMED})
    _await(lambda: site.rows(_COUNT)[0][0] - before >= ENTRIES, begin + MOST_SECONDS)
    [[after]] = site.rows(_COUNT)
    site.command({"rate": RATE / CLIENTS, "timeout": 10.0})
    _sleep_until(begin + TOO_SLOW + 3.0)
    return int(after - before)


def _share_of_core(server: psutil.Process) -> float:
    before = server.cpu_times()
    time.sleep(SETTLE)
    after = server.cpu_times()
    return float(after.user + after.system - before.user - before.system) / SETTLE


def _sleep_until(when: float) -> None:
    time.sleep(max(0.0, when - time.monotonic()))


def _await(condition: Callable[[], bool], end: float) -> None:
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)


@dataclass(frozen=True)
class _Measured:
    """What was measured: the times of the probe in seconds, of each slice without slow readers and with them."""

    alone: list[list[float]]
    beside: list[list[float]]
    growth: int
    written: int
    stopped: Counter[str]
    resumed: Counter[str]

    def p99s(self) -> tuple[float, float]:
        """Without and with slow readers: of all slices together, for a slice has few that are slow."""
        alone, beside = (p99(list(chain.from_iterable(slices))) for slices in (self.alone, self.beside))
        return alone, beside

    def ratio(self) -> float:
        """How much longer a Deduct takes with slow readers."""
        alone, beside = self.p99s()
        return beside / alone

    def failures(self) -> list[str]:
        """Which promises were not kept, and which floors not reached."""
        ends_otherwise = self.stopped.keys() - {"WATCHER_TOO_SLOW", "CAUGHT_UP"} | self.resumed.keys() - {
            "CAUGHT_UP"
        }
        found = {
            f"floor of entries: {self.written} < {ENTRIES}": self.written < ENTRIES,
            f"floor of probes: a slice has less than {LEAST_PROBES}": min(map(len, self.alone + self.beside))
            < LEAST_PROBES,
            f"floor of too_slow: less than {LEAST_TOO_SLOW}": self.stopped["WATCHER_TOO_SLOW"]
            < LEAST_TOO_SLOW,
            f"memory grew by more than {MOST_MEMORY >> 20} MB": self.growth > MOST_MEMORY,
            f"the p99 of Deduct grew more than {MOST_RATIO}-fold": self.ratio() > MOST_RATIO,
            f"streams ended otherwise than promised: {ends_otherwise}": bool(ends_otherwise),
        }
        return [what for what, is_so in found.items() if is_so]

    def line(self) -> str:
        """The fields of the RESULT line."""
        alone, beside = self.p99s()
        return (
            f"entries={self.written} too_slow={self.stopped['WATCHER_TOO_SLOW']}"
            f" caught_up={self.stopped['CAUGHT_UP'] + self.resumed['CAUGHT_UP']}"
            f" memory_mb={self.growth / (1 << 20):.1f} p99_alone_ms={1_000 * alone:.1f}"
            f" p99_ms={1_000 * beside:.1f} p99_ratio={self.ratio():.2f}"
        )


def _judge(site: Site, calls: Sequence[Call], measured: _Measured, unresolved: int) -> Result:
    entries = site.entries()
    report, stats = check(calls, entries), stats_of(calls)
    told, table, summaries = WatchReport(), kinds_by_account(entries), 0
    for file in sorted(site.folder.glob("*.watch")):
        notes = read_notes(file)
        check_notes(notes, table, None, {}, told)
        summaries += sum(not each.kind for each in notes.told)
    failures = measured.failures()
    if unresolved:
        failures.append(f"unresolved requests: {unresolved}")
    verdict = "PASS" if report.clean and told.clean and not failures else "FAIL"
    told.add_to(report)
    line = (
        f"{line_head('slow_readers', site.seed, stats, HOT + EVERYTHING, report)} {told.words()} summaries={summaries}"
        f" {measured.line()} recover_p99_ms=0 {verdict}"
    )
    if failures:
        line += f" ({'; '.join(failures)})"
    rounds = ", ".join(
        f"{1_000 * p99(a):.1f} and {1_000 * p99(b):.1f}"
        for a, b in zip(measured.alone, measured.beside, strict=True)
    )
    note = f"p99 of Deduct without and with slow readers, slice by slice, in ms: {rounds}"
    return Result(line, verdict, [note, *report.examples, *told.examples])


def _times(calls: Sequence[Call], of: Slice) -> list[float]:
    """How long each deduction of the probe took in a slice, in seconds."""
    return [
        call.end - call.begin
        for call in calls
        if call.process == "probe" and of.begin <= call.begin < of.end and call.end is not None
        and (call.outcome == OK or call.outcome in REFUSALS)
    ]  # fmt: skip
