"""Postgres and servers for tests: real ones.

``CREDITLEDGER_TEST_DSN`` names a Postgres whose user may create databases; without it the embedded one is started.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from creditledger_server.embedded import embedded_postgres
from creditledger_server.storage import schema

ROOT = Path(__file__).parent.parent.parent
CATALOG = ROOT / "catalog.example.toml"

_numbers = itertools.count(1)


def with_database(dsn: str, database: str) -> str:
    """The DSN with another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))


class Postgres:
    """A running Postgres with a migrated template database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._template = f"creditledger_test_{os.getpid()}_template"
        self._execute(f"CREATE DATABASE {self._template}")
        schema.migrate(with_database(dsn, self._template))

    def create_database(self) -> str:
        """A fresh migrated database; returns its DSN."""
        name = f"creditledger_test_{os.getpid()}_{next(_numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return with_database(self.dsn, name)

    def drop_database(self, dsn: str) -> None:
        """Drops a database, connections to it notwithstanding."""
        self._execute(f"DROP DATABASE {urlsplit(dsn).path[1:]} WITH (FORCE)")

    def close(self) -> None:
        """Drops the template."""
        self._execute(f"DROP DATABASE {self._template} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(statement)


class ServerProcess:
    """A server in a process of its own, on a free port of 127.0.0.1."""

    def __init__(
        self, dsn: str, *options: str, env: dict[str, str] | None = None, catalog: Path | None = CATALOG
    ) -> None:
        command = [sys.executable, "-m", "creditledger_server.cli", "serve", "--database-url", dsn]
        command += ["--listen", "127.0.0.1:0", *(["--catalog", str(catalog)] if catalog else []), *options]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._logged = ""
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, env={**os.environ, **(env or {})}
        )
        line = self._await_ready()
        self.target = line.split()[1]
        self.metrics = re.findall(r"http://\S+/metrics", line)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def wait(self) -> int:
        """Waits for an end that is under way; returns the exit status."""
        return self._reap()

    def log(self) -> str:
        """What the server has written to stderr."""
        if not self._log.closed:
            self._log.seek(0)
            self._logged = self._log.read()
        return self._logged

    def _await_ready(self) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            if select.select([self.process.stdout], [], [], 0.2)[0]:
                line = self.process.stdout.readline()
                if line.startswith("ready: "):
                    return line
        self.kill()
        raise AssertionError(f"the server did not become ready: {self.log()}")

    def _reap(self) -> int:
        self.process.communicate(timeout=30)
        self.log()
        self._log.close()
        return self.process.returncode


@contextmanager
def running_server(
    dsn: str, *options: str, env: dict[str, str] | None = None, catalog: Path | None = CATALOG
) -> Iterator[ServerProcess]:
    """A server for as long as the block lasts."""
    process = ServerProcess(dsn, *options, env=env, catalog=catalog)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()


@contextmanager
def postgres_dsn(folder: Path) -> Iterator[str]:
    """The DSN of the Postgres to test on, which runs for as long as the block lasts."""
    if given := os.environ.get("CREDITLEDGER_TEST_DSN"):
        yield given
    else:
        with embedded_postgres(folder, notice=lambda _line: None) as dsn:
            yield dsn
