"""Several server processes behind one address: ``serve --workers``.

The supervisor serves nothing itself and loads no gRPC. Each worker is a fresh interpreter, and the kernel spreads the
connections over them (SO_REUSEPORT). A worker's stdin is its lifeline: it brings the settings, and when it ends,
however the supervisor came to its end, the worker drains.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from .config import Settings, load_settings, split_address
from .domain.catalog import Catalog
from .ledger.start import StartupError, prepare, startup_errors
from .storage.connect import Database

logger = logging.getLogger(__name__)

FAILED_STARTS: Final = 5
"""How many times in a row a worker may end before it is ready."""
SHORTEST_PAUSE: Final = 0.1
"""Seconds until the first restart of a worker; doubled with each further one."""
LONGEST_PAUSE: Final = 5.0
LONG_LIFE: Final = 60.0
"""Seconds after which a worker that ends is nobody that keeps failing."""

# Without the current folder on the path, whatever lies there.
_COMMAND: Final = (sys.executable, "-P", "-m", "creditledger_server.cli", "worker")


class WorkersError(Exception):
    """The workers ended otherwise than they were told to; the message is one line."""


async def supervise(
    settings: Settings,
    dsn: str,
    catalog: Catalog | None,
    on_ready: Callable[[str, Sequence[str]], None],
) -> None:
    """Keeps workers serving until SIGTERM, SIGINT or SIGHUP, then has them drain; a second signal ends them at once.

    ``on_ready`` is told the address when all take calls, and those of their metrics. Raises StartupError and
    WorkersError.
    """
    await _prepare(settings, dsn, catalog)
    metrics = _metrics_addresses(settings)
    for each in metrics:
        _claim(each).close()  # So that a port that is taken is told once, and not by a worker that fails.
    with _claim(settings.listen) as claim:
        address = f"{settings.listen.rpartition(':')[0]}:{claim.getsockname()[1]}"
        common: dict[str, object] = {"listen": address, "database_url": dsn, "workers": 1}
        own = [{"metrics_listen": each} for each in metrics] or [{}] * settings.workers
        orders = [settings.model_copy(update=common | each).model_dump_json() for each in own]
        workers = _Workers(orders, lambda: on_ready(address, metrics))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, workers.stop)
        await workers.run()


def ordered_settings() -> Settings:
    """In a worker: the settings that its supervisor sent."""
    return load_settings(**json.loads(sys.stdin.readline()))


def drain_with_supervisor() -> None:
    """In a worker: has it drain, as SIGTERM does, when its supervisor is no more."""

    def wait() -> None:
        # Not by sys.stdin: a thread that waits in it would be in the way of the interpreter's end.
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


async def _prepare(settings: Settings, dsn: str, catalog: Catalog | None) -> None:
    """Does once what would be wrong in each worker: a mistake is told once, and a restart brings no old catalog."""
    database = Database(
        dsn,
        pool_size=1,
        lock_timeout=settings.lock_timeout_ms,
        statement_timeout=settings.statement_timeout_ms,
        pooled=settings.pooled,
    )
    try:
        with startup_errors():
            await database.open()
            await prepare(database, settings.decimals, catalog)
    finally:
        await database.close()


def _metrics_addresses(settings: Settings) -> list[str]:
    """Where each worker serves its metrics, if they do: who reads them must find every one and know them apart."""
    if settings.metrics_listen is None:
        return []
    host, _, port = settings.metrics_listen.rpartition(":")
    return [f"{host}:{int(port) + place}" for place in range(settings.workers)]


def _claim(address: str) -> socket.socket:
    """A socket that keeps the address for the workers and takes no connections itself. Raises StartupError."""
    host, port = split_address(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        claim = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupError(f"cannot listen on {address}: {error.strerror}") from error
    try:
        # Connections that ended a moment ago must not be in the way; a server that listens must.
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claim.bind(where)
    except OSError as error:
        claim.close()
        raise StartupError(f"cannot listen on {address}: {error.strerror}") from error
    # Shared only from now on: so it was nobody else's, and is for those who share it, as the workers do.
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return claim


class _Workers:
    """The workers of a supervisor, each in a place that is filled again when it ends."""

    def __init__(self, orders: Sequence[str], on_ready: Callable[[], None]) -> None:
        self._orders = [order.encode() + b"\n" for order in orders]
        self._count = len(orders)
        self._on_ready = on_ready
        self._were_ready: set[int] = set()
        self._running: dict[int, Process] = {}
        self._stopping = asyncio.Event()
        self._failure = ""

    def stop(self) -> None:
        """Has the workers drain; the second time, ends them."""
        again = self._stopping.is_set()
        self._stopping.set()
        for process in self._running.values():
            with suppress(ProcessLookupError):  # It has just ended.
                process.send_signal(signal.SIGKILL if again else signal.SIGTERM)

    async def run(self) -> None:
        """Keeps all places filled until ``stop``; raises WorkersError unless the workers then ended well."""
        async with asyncio.TaskGroup() as tasks:
            for place in range(1, self._count + 1):
                tasks.create_task(self._keep(place))
        if self._failure:
            raise WorkersError(self._failure)

    async def _keep(self, place: int) -> None:
        loop = asyncio.get_running_loop()
        pause, failed_starts = SHORTEST_PAUSE, 0
        while not self._stopping.is_set():
            begin = loop.time()
            status, was_ready = await self._run_one(place)
            if self._stopping.is_set():
                if status and was_ready:
                    self._failure = f"worker {place} ended with status {status} instead of draining"
                return
            failed_starts = 0 if was_ready else failed_starts + 1
            if failed_starts == FAILED_STARTS:
                how = f"{FAILED_STARTS} times before it was ready, last with status {status}"
                self._failure = f"worker {place} ended {how}"
                self.stop()
                return
            pause = SHORTEST_PAUSE if loop.time() - begin > LONG_LIFE else pause
            logger.warning("worker %d ended with status %d, starts again in %.1f s", place, status, pause)
            await self._rest(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _run_one(self, place: int) -> tuple[int, bool]:
        """Runs a worker to its end; returns its exit status, and whether it was ready before."""
        # In a session of its own, so that Ctrl-C in the terminal reaches the supervisor only.
        process = await asyncio.create_subprocess_exec(
            *_COMMAND, stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        self._running[place] = process
        assert process.stdin is not None and process.stdout is not None
        if self._stopping.is_set():
            process.kill()  # It was told too early to hear it.
        process.stdin.write(self._orders[place - 1])
        ready = (await process.stdout.readline()).startswith(b"ready: ")
        if ready:
            self._note_ready(place)
        status = await process.wait()
        del self._running[place]
        return status, ready

    def _note_ready(self, place: int) -> None:
        missing = len(self._were_ready) < self._count
        self._were_ready.add(place)
        if missing and len(self._were_ready) == self._count and not self._stopping.is_set():
            self._on_ready()

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
