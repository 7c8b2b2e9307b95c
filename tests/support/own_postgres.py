"""A Postgres of a test's own, which may be killed, stopped, frozen and started again on the same folder."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psutil
import psycopg
from creditledger_server.embedded import embedded_postgres


class OwnPostgres:
    """The embedded Postgres on a folder. Keep the folder's path short: then the DSN outlives a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self._frozen: list[psutil.Process] = []
        self.dsn = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.thaw()
        self._running.close()

    def start(self) -> None:
        """Starts it, or finds it running; returns when it takes connections."""
        self._running.close()
        self.dsn = self._running.enter_context(embedded_postgres(self._folder, notice=lambda _line: None))

    def kill(self, sessions: bool) -> None:
        """kill -9 of the postmaster, of its ``sessions`` as well or not; returns when the last of them has ended.

        Sessions that are not killed end by themselves when they notice, which may take seconds.
        """
        processes = self.processes() if sessions else []
        self._end(signal.SIGKILL, *processes[1:])

    def stop_immediately(self) -> None:
        """Immediate stop: sessions end at once, without a checkpoint, and the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def freeze(self) -> None:
        """Stops every process of it where it is."""
        self._frozen = self.processes()
        for process in self._frozen:
            _signal(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets them go on."""
        for process in self._frozen:
            _signal(process, signal.SIGCONT)
        self._frozen = []

    def postmaster(self) -> psutil.Process | None:
        """Its first process, if it runs."""
        try:
            number = int((self._folder / "postgres" / "postmaster.pid").read_text().split("\n")[0])
            process = psutil.Process(number)
            alive = process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None
        return process if alive else None

    def processes(self) -> list[psutil.Process]:
        """All of its processes."""
        postmaster = self.postmaster()
        return [] if postmaster is None else [postmaster, *postmaster.children(recursive=True)]

    def await_connections(self, seconds: float = 60.0) -> None:
        """Waits until a statement is answered; ``seconds`` only end a test that would hang."""
        end = time.monotonic() + seconds
        while True:
            try:
                with psycopg.connect(self.dsn, connect_timeout=2) as conn:
                    conn.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                assert time.monotonic() < end, "Postgres does not come back"
                time.sleep(0.05)

    def _end(self, how: signal.Signals, *others: psutil.Process) -> None:
        processes = self.processes()
        os.kill(processes[0].pid, how)
        for process in others:
            _signal(process, how)
        _, alive = psutil.wait_procs(processes, timeout=30)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE], (
            "sessions outlive Postgres"
        )


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
