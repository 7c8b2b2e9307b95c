"""`make bench-breakdown`: where the time of a deduction goes. python -m benchmarks.breakdown

In the server: CPU time by phase, from `benchmarks.traced`, beside the total of a server that is not traced. In
Postgres: the time of each statement of a batch, from `benchmarks.replay`. On the machine: who has its cores, and who
waits for one.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from . import cores, generators, ghz, machine, replay, report, seed
from .row import Load
from .rows import apart
from .site import Server, Site, run, serving, site, started
from .traced import PHASES, PROTOBUF

_ACCOUNTS = 10_000
_SECONDS = 2.0
_ROUNDS = 3
_SPREAD = "BatchDeduct, 10,000 accounts"
_REST = "gRPC, event loop, interceptor"
_TRACED = "all of it, traced"
_PLAIN = "all of it, not traced"
_TABLES = (
    ("loads", "µs of the server's CPU per deduction", 1),
    ("postgres", "µs per deduction", 1),
    ("cores", "shares of one core", 2),
)
_PHASES = (PROTOBUF, *dict.fromkeys(phase for _, _, phase in PHASES))


def main() -> int:
    """Measures, tells, writes; returns the exit status."""
    console = Console(width=120, highlight=False)
    with site() as place:
        results = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            **machine.describe(place),
            **_measured(place),
        }
    report.write("breakdown", results)
    for title, unit, digits in _TABLES:
        if results[title]:
            table = Table(unit, *results[title])
            for name in next(iter(results[title].values())):
                table.add_row(name, *(f"{load[name]:.{digits}f}" for load in results[title].values()))
            console.print(table)
    report.update_docs()
    return 0


def _measured(place: Site) -> dict[str, Any]:
    with ExitStack() as stack:
        load = stack.enter_context(generators.process_pool())
        seed.create_ledger(place, "seeded", (_ACCOUNTS, 0))
        counted = place.folder / "traced.json"
        command = serving(place.create("ledger", "seeded"))
        module = command.index("creditledger_server.cli")
        tracing = [*command[:module], "benchmarks.traced", str(counted), *command[module + 1 :]]
        traced, plain = stack.enter_context(started(tracing)), stack.enter_context(started(command))
        loads = {
            name: _phases(make(traced.target), make(plain.target), guess, _Counts(traced, counted), plain)
            for name, (guess, make) in _loads(place, load).items()
        }
        shares = {
            name: _shares(make(plain.target), guess, place, plain)
            for name, (guess, make) in {**_loads(place, load), **_client_loads(load)}.items()
            if cores.are_told()
        }
        recorded = replay.record(place, "seeded", range(_ACCOUNTS), replay.DEDUCTIONS, load)
        replayed = asyncio.run(recorded)
        return {
            "loads": loads,
            "cores": shares,
            "postgres": {_SPREAD: _medians([replayed.by_statement() for _ in range(_ROUNDS)])},
        }


def _loads(place: Site, load: Executor) -> dict[str, tuple[int, Callable[[str], Load]]]:
    """What is measured: roughly its deductions per second, and how to load a target."""
    many, one = range(_ACCOUNTS), range(1)
    unary = {"Deduct, 64 in flight": (1_500, lambda target: ghz.Ghz(place.folder, target, "Deduct", many))}
    return {
        **(unary if ghz.available() else {}),
        _SPREAD: (12_000, lambda target: apart(load, generators.batches, target, many)),
        "BatchDeduct, one account": (16_000, lambda target: apart(load, generators.batches, target, one)),
    }


def _client_loads(load: Executor) -> dict[str, tuple[int, Callable[[str], Load]]]:
    """The same for the asyncio client."""

    def calls(target: str, **options: Any) -> Load:
        return apart(load, partial(generators.client_calls, **options), target, range(_ACCOUNTS), 256)

    return {
        "client, 256 concurrent": (2_000, calls),
        "client, 256 concurrent, batching": (8_000, partial(calls, batching=True)),
    }


class _Counts:
    """What a traced server has counted so far, in nanoseconds by phase."""

    def __init__(self, server: Server, file: Path) -> None:
        self._server = server
        self._file = file

    def read(self) -> dict[str, int]:
        """Asks the server, which writes it to the file."""
        self._file.unlink(missing_ok=True)
        self._server.process.send_signal(signal.SIGUSR1)
        while not self._file.exists():
            time.sleep(0.01)
        told = json.loads(self._file.read_text())
        return {**told["phases"], _TRACED: told["total"]}


def _phases(on_traced: Load, on_plain: Load, guess: int, counts: _Counts, plain: Server) -> dict[str, float]:
    """Microseconds of CPU per deduction, by phase; medians of the rounds, the two servers in turns."""
    on_traced(guess // 2)
    on_plain(guess // 2)
    rounds = []
    for _ in range(_ROUNDS):
        before = counts.read()
        operations = on_traced(int(guess * _SECONDS)).operations
        after = counts.read()
        spent = {phase: (after[phase] - before.get(phase, 0)) / operations / 1_000 for phase in after}
        cpu = plain.cpu_seconds()
        operations = on_plain(int(guess * _SECONDS)).operations
        cpu = plain.cpu_seconds() - cpu
        phases = {phase: spent.get(phase, 0.0) for phase in _PHASES}
        rest = {_REST: spent[_TRACED] - sum(phases.values())}
        rounds.append({**rest, **phases, _TRACED: spent[_TRACED], _PLAIN: 1e6 * cpu / operations})
    return _medians(rounds)


def _shares(load: Load, guess: int, place: Site, server: Server) -> dict[str, float]:
    load(guess // 2)
    return _medians([cores.shares(load, int(guess * _SECONDS), place, server) for _ in range(_ROUNDS)])


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(each[name] for each in rounds) for name in rounds[0]}


if __name__ == "__main__":
    run(main)
