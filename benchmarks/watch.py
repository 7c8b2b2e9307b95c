"""`make bench-watch`: what watching gives and what it costs. python -m benchmarks.watch --help

Servers, streams and load as in `benchmarks.watch_rows`; rows take turns. Behind every row the ledger is audited by SQL,
and what each stream was told is compared with the tables, entry by entry. A mismatch makes the exit status 1.
"""

from __future__ import annotations

import argparse
import time

from rich.console import Console

from . import audit, machine, report
from .keys import Key, judge
from .report import Results
from .site import Say, Site, run, site
from .watch_rows import LEDGER, Sizes, prepared

ROUNDS = 5

KEYS = (
    Key(
        "watch_lag_p99_ms", "p99 of milliseconds from OK to a watcher on another server, 500 deductions per second",
        "watch_lag", (), 250, lower_is_better=True,
    ),
    Key(
        "watch_lag_idle_p50_ms", "p50 of the same with 5 deductions per second", "watch_lag_idle", (),
        lower_is_better=True,
    ),
    Key(
        "watch_fanout", "entries delivered to 1,000 streams on one account ÷ messages of a bare stream echo",
        "watch_fanout", ("watch_echo",), 0.5,
    ),
    Key(
        "watch_cost", "Deduct, 64 in flight, with 1,000 open streams ÷ with none",
        "unary_watched", ("unary_unwatched",), 0.8,
    ),
    Key(
        "watch_kb_per_stream", "resident memory of an idle stream, in kB",
        "watch_memory", (), 60, lower_is_better=True,
    ),
    Key(
        "watch_streams", "streams held open by one process, all receiving",
        "watch_streams", (), 5_000,
    ),
)  # fmt: skip


def main() -> int:
    """Measures, tells, writes; returns the exit status."""
    options = _options()
    console = Console(width=120, highlight=False)
    with site() as place:
        results = measured(place, options.rounds, options.duration, options.scale, console.print)
    trial = options.rounds < ROUNDS or options.scale < 1
    path = report.write("trial-watch", results) if trial else report.write_part("watch", results)
    report.show(console, results)
    console.print(f"{path.name}: {report.machine_line(results)}")
    if not trial:
        report.update_docs()
    return 1 if results["mismatches"] else 0


def measured(place: Site, rounds: int, duration: float, scale: float, say: Say) -> Results:
    """All figures; ``duration`` in seconds, ``scale`` the share of the streams and accounts."""
    begin = time.monotonic()
    described = machine.describe(place)
    with prepared(place, Sizes.of(scale), say) as rows:
        for row in rows.rounds:
            if row.server is not None:  # the others start a new one each time
                row.warm_up(place)
        say(f"prepared in {time.monotonic() - begin:.0f} s")
        for number in range(1, rounds + 1):
            for row in rows.rounds:
                row.measure(place, duration)
            say(f"round {number} of {rounds}: {time.monotonic() - begin:.0f} s")
        for row in rows.once:
            row.measure(place, duration)
    say(f"all in {time.monotonic() - begin:.0f} s")
    verified = audit.verify(place.database(LEDGER))
    everything = [*rows.rounds, *rows.once]
    mismatches = sum(row.mismatches for row in everything) + (not verified.endswith("mismatches=0"))
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **described,
        "settings": {"rounds": rounds, "duration": duration, "scale": scale},
        "mismatches": mismatches,
        "verify": verified,
        "keys": judge(KEYS, {row.name: row.values for row in everything}),
        "rows": {row.name: row.summary() for row in everything},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watch", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="rounds of every row (default: %(default)s)"
    )
    parser.add_argument(
        "--duration", type=float, default=3.0, help="seconds of a round (default: %(default)s)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
