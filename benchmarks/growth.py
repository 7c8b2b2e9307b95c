"""`make bench-growth`: whether a large ledger is as fast as a small one. python -m benchmarks.growth --help

Ledgers of three sizes, and one whose first account has a long history, are loaded by COPY with entries as the server
writes them, then deducted from in turns. Behind every round all accounts that were touched since the servers started
are audited by SQL. The whole database is in a temporary folder and is removed at the end.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console

from . import generators, machine, report, seed
from .keys import Key, judge
from .report import Results
from .row import Row
from .rows import apart
from .sample import Sample
from .site import Server, Site, run, serving, site, started

ACCOUNTS = (10_000, 100_000, 1_000_000)
ENTRIES_EACH = 10
LONG = 1_000_000
_FRESH = 200
_NAMES = ("small", "medium", "large")
_BYTES_NEEDED = 14 << 30  # at SCALE=1: tables, indexes, what sorting and WAL take meanwhile
_MOST_BYTES = 420

KEYS = (
    Key("growth_rate", "BatchDeduct on the largest ledger ÷ on the smallest", "large", ("small",), 0.7),
    Key("growth_history", "BatchDeduct on the account with the long history ÷ on fresh ones", "long", ("fresh",), 0.9),
)  # fmt: skip


def main() -> int:
    """Measures, tells, writes; returns the exit status."""
    options = _options()
    console = Console(width=120, highlight=False)
    free, needed = shutil.disk_usage(tempfile.gettempdir()).free, int(_BYTES_NEEDED * options.scale)
    if free < needed:
        console.print(f"{needed >> 30} GiB are needed in {tempfile.gettempdir()}, {free >> 30} GiB are free")
        return 1
    with site() as place:
        results = _measured(place, options, console)
    trial = options.rounds < 5 or options.scale < 1
    path = report.write("trial-growth" if trial else "growth", results)
    report.show(console, results)
    console.print(f"{path.name}: {report.machine_line(results)}")
    if not trial:
        report.update_docs()
    return 1 if results["mismatches"] else 0


def _measured(place: Site, options: argparse.Namespace, console: Console) -> Results:
    described = machine.describe(place)
    begin = time.monotonic()
    with _rows(place, options.scale, console) as rows:
        console.print(f"loaded in {time.monotonic() - begin:.0f} s")
        for row in rows:
            row.warm_up(place)
        for number in range(1, options.rounds + 1):
            for row in rows:
                row.measure(place, options.duration)
            console.print(f"round {number} of {options.rounds}: {time.monotonic() - begin:.0f} s")
    sizes = {name: _bytes_per_entry(place, name) for name in _NAMES}
    whole = max(size["table"] + size["indexes"] for size in sizes.values())
    settings = {"rounds": options.rounds, "duration": options.duration, "scale": options.scale}
    keys = judge(KEYS, {row.name: row.values for row in rows})
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **described,
        "settings": settings,
        "mismatches": sum(row.mismatches for row in rows),
        "bytes_per_entry": sizes,
        "keys": {**keys, "bytes_per_entry": _judged_size(whole)},
        "rows": {row.name: {**row.summary(), **_size(row, options.scale)} for row in rows},
    }


@contextmanager
def _rows(place: Site, scale: float, console: Console) -> Iterator[list[Row]]:
    with ExitStack() as stack:
        load = stack.enter_context(generators.process_pool())
        counts = [int(accounts * scale) for accounts in ACCOUNTS]
        for name, accounts in zip(_NAMES, counts, strict=True):
            begin = time.monotonic()
            seed.create_ledger(place, name, (accounts, ENTRIES_EACH - seed.FIRST_ENTRIES))
            console.print(f"{name}: {accounts:,} accounts loaded in {time.monotonic() - begin:.0f} s")
        seed.create_ledger(place, "history", (1, int(LONG * scale)), (_FRESH, 0))
        place.execute("CHECKPOINT")
        [[since]] = place.execute("SELECT clock_timestamp()::text")
        servers = {
            name: stack.enter_context(started(serving(place.database(name)))) for name in (*_NAMES, "history")
        }
        sized = [
            _row(name, f"{n:,} accounts, {n * ENTRIES_EACH:,} entries", servers[name], load, range(n), since)
            for name, n in zip(_NAMES, counts, strict=True)
        ]
        yield [*sized, *_history_rows(servers["history"], load, int(LONG * scale), since)]


def _row(name: str, meaning: str, server: Server, load: Executor, accounts: range, since: str) -> Row:
    batches = apart(load, generators.batches, server.target, accounts)
    return Row(name, meaning, 15_000, batches, name, server, writes=True, since=since)


def _history_rows(server: Server, load: Executor, entries: int, since: str) -> list[Row]:
    """The account that has a history, and a fresh one in every round."""
    fresh = itertools.count(1)

    def on_fresh(count: int) -> Sample:
        number = next(fresh)
        return load.submit(generators.batches, server.target, range(number, number + 1), count).result()

    on_long = apart(load, generators.batches, server.target, range(1))
    rows = {
        "long": (f"one account with {entries:,} entries", on_long),
        "fresh": ("one fresh account", on_fresh),
    }
    return [
        Row(name, meaning, 15_000, on, "history", server, writes=True, since=since)
        for name, (meaning, on) in rows.items()
    ]


def _bytes_per_entry(place: Site, database: str) -> dict[str, float]:
    """After the run. Entries come to the medium ledger's indexes one by one, as in life; the large one's are packed."""
    sizes = "pg_table_size('entry')::float, pg_indexes_size('entry')::float"
    [(table, indexes, count)] = place.execute(f"SELECT {sizes}, count(*) FROM entry", database)
    return {"table": round(table / count, 1), "indexes": round(indexes / count, 1)}


def _judged_size(size: float) -> dict[str, Any]:
    return {
        "meaning": "bytes of table and indexes per entry, of the ledger where they are most",
        "value": size, "min": size, "max": size, "floor": _MOST_BYTES, "aim": None, "lower_is_better": True,
        "ok": size <= _MOST_BYTES,
    }  # fmt: skip


def _size(row: Row, scale: float) -> dict[str, int]:
    if row.name not in _NAMES:
        return {"accounts": 1, "entries": int(LONG * scale) if row.name == "long" else 0}
    accounts = int(ACCOUNTS[_NAMES.index(row.name)] * scale)
    return {"accounts": accounts, "entries": accounts * ENTRIES_EACH}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every row (default: %(default)s)")
    parser.add_argument(
        "--duration", type=float, default=3.0, help="seconds of a round (default: %(default)s)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
