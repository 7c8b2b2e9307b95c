"""The faults: what is done to a site while its clients make calls.

None of them is a power loss: a killed or stopped process leaves what it has written to the kernel, which a machine that
loses its power does not.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from fault_checker import Away
from fault_overload import offer_three_times_the_capacity
from fault_site import SERVERS, Layout, Site
from own_postgres import OwnPostgres
from protocol_cuts import Point

_BACKENDS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'creditledger'"


@dataclass(frozen=True)
class Floors:
    """The least that a run of the fault's own length must have seen, lest it pass without having tried anything."""

    faults: int
    unknown: int = 0
    executed: int = 0
    unexecuted: int = 0
    ops_per_second: int = 60
    untried: int = 0


@dataclass(frozen=True)
class Fault:
    """One fault. ``inject`` does it again and again for about so many seconds.

    ``unfit`` tells why it cannot be done here, if so. More than ``most_unknown`` requests of unknown outcome make it
    fail.
    """

    name: str
    inject: Callable[[Site, float], None]
    floors: Floors
    layout: Layout = field(default_factory=Layout)
    seconds: float = 8.0
    unfit: Callable[[], str] = lambda: ""
    most_unknown: int | None = None


def _until(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def _pause(site: Site, least: float, most: float) -> None:
    time.sleep(site.random.uniform(least, most))


def _kill_server(site: Site, seconds: float) -> None:
    goes_on = _until(seconds)
    while goes_on():
        number = site.random.randrange(SERVERS)
        site.servers[number].kill()
        _pause(site, 0.05, 0.4)
        site.start_server(number)
        site.over()
        _pause(site, 0.3, 1.0)


def _kill(postgres: OwnPostgres) -> None:
    postgres.kill(sessions=random.random() < 0.7)


def _end_postgres(end: Callable[[OwnPostgres], None]) -> Callable[[Site, float], None]:
    def inject(site: Site, seconds: float) -> None:
        goes_on = _until(seconds)
        while goes_on():
            end(site.postgres)
            gone = time.monotonic()
            _pause(site, 0.3, 1.0)
            site.away.append(Away(gone, time.monotonic()))
            site.postgres.start()
            site.over()
            _pause(site, 0.7, 1.5)

    return inject


def _terminate_backends(site: Site, seconds: float) -> None:
    goes_on = _until(seconds)
    with psycopg.connect(site.dsn, autocommit=True) as conn:
        while goes_on():
            share = site.random.choice((0.1, 0.2, 1.0))
            if conn.execute(_BACKENDS + " AND random() < %s", [share]).fetchall():
                site.over()
            _pause(site, 0.02, 0.25)


def _freeze_server(site: Site, seconds: float) -> None:
    """Once for longer than Postgres lets a transaction idle, which is 5 s."""
    goes_on, times = _until(seconds), [5.5]
    while goes_on() or times:
        process = site.servers[site.random.randrange(SERVERS)].process
        process.send_signal(signal.SIGSTOP)
        time.sleep(times.pop() if times else site.random.uniform(0.1, 2.0))
        process.send_signal(signal.SIGCONT)
        site.over()
        _pause(site, 0.3, 1.0)


def _freeze_postgres(site: Site, seconds: float) -> None:
    goes_on = _until(seconds)
    while goes_on():
        site.postgres.freeze()
        frozen = time.monotonic()
        _pause(site, 0.2, 2.5)
        site.away.append(Away(frozen, time.monotonic()))
        site.postgres.thaw()
        site.over()
        _pause(site, 0.5, 1.5)


def _reset(site: Site, seconds: float) -> None:
    goes_on = _until(seconds)
    while goes_on():
        if site.random.choice(site.proxies).reset(site.random.choice((0.2, 0.5, 1.0))):
            site.over()
        _pause(site, 0.03, 0.4)


def _stall(site: Site, seconds: float) -> None:
    """Of both servers, or of one."""
    goes_on = _until(seconds)
    while goes_on():
        stalled = site.proxies if site.random.random() < 0.6 else [site.random.choice(site.proxies)]
        for proxy in stalled:
            proxy.stall()
        away = time.monotonic()
        _pause(site, 0.3, 3.0)
        if stalled == site.proxies:
            site.away.append(Away(away, time.monotonic()))
        for proxy in stalled:
            proxy.resume()
        site.over()
        _pause(site, 0.5, 1.5)


def _slow(site: Site, seconds: float) -> None:
    goes_on = _until(seconds)
    while goes_on():
        for proxy in site.proxies:
            proxy.delay = (0.0, site.random.choice((0.002, 0.02, 0.1)))
            proxy.slice_bytes = site.random.choice((0, 7, 100, 1_000))
        _pause(site, 0.3, 1.0)
        site.over()
    for proxy in site.proxies:
        proxy.delay, proxy.slice_bytes = (0.0, 0.0), 0


def _cut(every: int) -> Callable[[Site, float], None]:
    def inject(site: Site, seconds: float) -> None:
        goes_on = _until(seconds)
        while goes_on():
            site.cutter.every = every
            _pause(site, 0.5, 2.0)
            site.cutter.every = 0
            _pause(site, 0.1, 0.5)
        site.events += site.cutter.times

    return inject


def _leave(site: Site, seconds: float) -> None:
    """The callers' own deadlines and cancellations do it all."""
    time.sleep(seconds)


def _take_connections(site: Site, seconds: float) -> None:
    """Takes every connection that Postgres has, and ends those of the servers, which then find none."""
    goes_on = _until(seconds)
    with psycopg.connect(site.dsn, autocommit=True) as conn:
        while goes_on():
            taken: list[psycopg.Connection[object]] = []
            full = _until(site.random.uniform(0.5, 2.0))
            while full():
                with suppress(psycopg.OperationalError):
                    while True:
                        taken.append(psycopg.connect(site.dsn, connect_timeout=5))
                conn.execute(_BACKENDS)
                time.sleep(0.02)
            for each in taken:
                each.close()
            site.over()
            _pause(site, 0.5, 1.5)


def _exhaust_pool(site: Site, seconds: float) -> None:
    """Locks the table of accounts, so that every connection is soon waiting for it, and every queue fills."""
    goes_on = _until(seconds)
    while goes_on():
        with psycopg.connect(site.dsn) as conn:
            conn.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
            locked = time.monotonic()
            _pause(site, 0.5, 2.8)
            site.away.append(Away(locked, time.monotonic()))
        site.over()
        _pause(site, 0.5, 1.0)


def _fill_disk(site: Site, seconds: float) -> None:
    goes_on = _until(seconds)
    filler = site.folder / "pg" / "filler"
    while goes_on():
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        _pause(site, 1.5, 3.0)
        filler.unlink()
        if site.postgres.postmaster() is None:
            site.postgres.start()
        site.postgres.await_connections()
        site.over()
        _pause(site, 1.0, 2.0)


def _roll(site: Site, seconds: float) -> None:
    goes_on, number = _until(seconds), 0
    while goes_on():
        status = site.servers[number].stop()
        if status:
            site.notes.append(
                f"a server ended with {status} upon SIGTERM: {site.servers[number].log()[-500:]}"
            )
        site.start_server(number)
        site.over()
        _pause(site, 0.3, 0.8)
        number = (number + 1) % SERVERS


def _no_tmpfs() -> str:
    """Why no small file system can be made here."""
    if os.geteuid() != 0:
        return "only root can mount the small file system that is to be full"
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no tmpfs can be mounted here: {error}"
        subprocess.run(["umount", folder], check=True)
    assert Path(folder).name
    return ""


_THROUGH = Layout(through=True)

FAULTS = [
    Fault("kill_server", _kill_server, Floors(3, 15, 1, 1), seconds=10),
    Fault("kill_postgres", _end_postgres(_kill), Floors(2, 30, 0, 1), seconds=10),
    Fault("stop_postgres", _end_postgres(OwnPostgres.stop_immediately), Floors(2, 30, 0, 1), seconds=10),
    Fault("terminate_backends", _terminate_backends, Floors(30)),
    Fault("freeze_server", _freeze_server, Floors(2, 10, 1, 1), Layout(load={"timeout": (0.3, 3.0)}), seconds=10),
    Fault("freeze_postgres", _freeze_postgres, Floors(2), Layout(load={"timeout": (0.2, 2.0)})),
    Fault("net_reset", _reset, Floors(20), _THROUGH),
    Fault("net_stall", _stall, Floors(2, 10, 1, 1), Layout(through=True, load={"timeout": (0.2, 2.0)}), seconds=10),
    Fault("net_slow", _slow, Floors(6, ops_per_second=20), _THROUGH),
    Fault("commit_before", _cut(6), Floors(50, 20, 0, 10), Layout(through=True, point=Point.BEFORE, row=10)),
    Fault("commit_sent", _cut(6), Floors(50, 20, 5, 5), Layout(through=True, point=Point.SENT, row=10)),
    Fault("commit_done", _cut(6), Floors(50, 20, 5, 5), Layout(through=True, point=Point.DONE, row=10)),
    Fault("answer_cut", _cut(30), Floors(50, 50, 10, 10), Layout(answers=True)),
    Fault(
        "callers_leave", _leave, Floors(200, 100, 10, 10), Layout(load={"hasty": 0.5, "cancelled": 0.2}, callers=16)
    ),
    Fault("connections_taken", _take_connections, Floors(2, 5, 0, 1)),
    Fault(
        "pool_exhausted", _exhaust_pool, Floors(2, untried=20),
        Layout(env={"CREDITLEDGER_POOL_SIZE": "1", "CREDITLEDGER_QUEUE_LIMIT": "10"}, callers=30),
    ),
    Fault(
        "overload", offer_three_times_the_capacity, Floors(1),
        Layout(
            through=True, callers=24, env={"CREDITLEDGER_MAX_BATCH": "4"},
            load={"hot": 0.0, "resent": 0.0, "without": ["batch"]},
        ),
        seconds=15,
    ),
    Fault("disk_full", _fill_disk, Floors(2, 10, 0, 1), Layout(tmpfs=192), unfit=_no_tmpfs),
    Fault(
        "rolling_restart", _roll, Floors(3), Layout(load={"client": True, "timeout": (15.0, 15.0)}),
        most_unknown=0,
    ),
]  # fmt: skip
