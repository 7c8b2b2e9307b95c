"""Who has the cores of the machine under a load: what each process runs, and how long it waits for a core (Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from .row import Load
from .site import Server, Site

_SCHEDULED = Path("/proc/self/schedstat")


class Spent(NamedTuple):
    """Seconds of all threads together: on a core, and ready to run without having one."""

    running: float
    waiting: float

    def since(self, before: Spent) -> Spent:
        """What came on top."""
        return Spent(self.running - before.running, self.waiting - before.waiting)


def are_told() -> bool:
    """Whether this kernel tells how long threads wait for a core."""
    return _SCHEDULED.exists()


def shares(load: Load, operations: int, site: Site, server: Server) -> dict[str, float]:
    """Of a load, by who has it: the share of one core."""
    postgres = psutil.Process(int((site.data / "postmaster.pid").read_text().split()[0]))
    before = _main_thread(server.process.pid), _of_all(psutil.Process(server.process.pid)), _of_all(postgres)
    sample = load(operations)
    after = _main_thread(server.process.pid), _of_all(psutil.Process(server.process.pid)), _of_all(postgres)
    main, threads, database = (new.since(old) for new, old in zip(after, before, strict=True))
    seconds = {
        "server: its Python runs": main.running,
        "server: its Python waits for a core": main.waiting,
        "server: other threads run": threads.running - main.running,
        "Postgres runs": database.running,
        "Postgres waits for a core": database.waiting,
        "load generator runs": sample.cpu_seconds,
    }
    return {who: spent / sample.seconds for who, spent in seconds.items()}


def _main_thread(pid: int) -> Spent:
    return _read(Path(f"/proc/{pid}/task/{pid}/schedstat"))


def _of_all(process: psutil.Process) -> Spent:
    """A process and those it started, all threads."""
    spent = [_read(file) for file in _files([process, *process.children(recursive=True)])]
    return Spent(sum(each.running for each in spent), sum(each.waiting for each in spent))


def _files(processes: list[psutil.Process]) -> Iterator[Path]:
    for process in processes:
        yield from Path(f"/proc/{process.pid}/task").glob("*/schedstat")


def _read(file: Path) -> Spent:
    with suppress(OSError):  # it has ended
        running, waiting, _ = file.read_text().split()
        return Spent(int(running) / 1e9, int(waiting) / 1e9)
    return Spent(0.0, 0.0)
