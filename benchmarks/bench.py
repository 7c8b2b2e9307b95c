"""`make bench`: every figure in one run on this machine, rounds interleaved. python -m benchmarks.bench --help

Rows take turns, so that whatever else the machine does meets all of them. A figure is the median of the ratios of each
round. Behind every round the ledger is audited by SQL, at the end by `creditledger-server verify`; a mismatch makes the
exit status 1.
"""

from __future__ import annotations

import argparse
import time

from rich.console import Console

from . import audit, machine, report
from .keys import KEYS, Key, judge
from .report import Results
from .row import Row
from .rows import LEDGER, prepared
from .site import Site, run, site

ROUNDS = 5
_WIDTH = 120


def main() -> int:
    """Measures, tells, writes; returns the exit status."""
    options = _options()
    keys = [key for key in KEYS if not options.keys or key.name in options.keys]
    console = Console(width=_WIDTH, highlight=False)
    with site() as place:
        results = _measured(place, keys, options.rounds, options.duration, console)
    trial = bool(options.keys) or options.rounds < ROUNDS
    path = report.write("trial" if trial else "latest", results)
    report.show(console, results)
    console.print(f"{path.name}: {report.machine_line(results)}")
    if not trial:
        report.update_docs()
    return 1 if results["mismatches"] else 0


def _measured(place: Site, keys: list[Key], rounds: int, duration: float, console: Console) -> Results:
    wanted = {row for key in keys for row in key.rows}
    begin = time.monotonic()
    described = machine.describe(place)
    with prepared(place, wanted, console.print) as rows:
        for row in rows:
            row.warm_up(place)
        console.print(f"prepared in {time.monotonic() - begin:.0f} s")
        for number in range(1, rounds + 1):
            _round(place, rows, duration)
            console.print(f"round {number} of {rounds}: {time.monotonic() - begin:.0f} s")
    verified = audit.verify(place.database(LEDGER))
    console.print(f"verify: {verified}")
    mismatches = sum(row.mismatches for row in rows) + (not verified.endswith("mismatches=0"))
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **described,
        "settings": {"rounds": rounds, "duration": duration},
        "mismatches": mismatches,
        "verify": verified,
        "keys": judge(keys, {row.name: row.values for row in rows}),
        "rows": {row.name: row.summary() for row in rows},
    }


def _round(place: Site, rows: list[Row], duration: float) -> None:
    for row in rows:
        row.measure(place, duration)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="rounds of every row (default: %(default)s)"
    )
    parser.add_argument(
        "--duration", type=float, default=2.0, help="seconds of a round (default: %(default)s)"
    )
    parser.add_argument("--keys", nargs="*", choices=[key.name for key in KEYS], help="only these figures")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
