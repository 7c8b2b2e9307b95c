"""Where benchmarks run: an embedded Postgres (fsync on) in a temporary folder, databases in it, servers before it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit, urlunsplit

import psutil
import psycopg
from creditledger_server.domain.catalog import Catalog
from creditledger_server.domain.catalog_document import parse_catalog
from creditledger_server.embedded import embedded_postgres
from creditledger_server.storage import schema

ROOT = Path(__file__).parent.parent
CATALOG = ROOT / "catalog.example.toml"
COMMAND = [sys.executable, "-m", "creditledger_server.cli"]
OPERATION = "chat_refinement"  # costs 1 credit and has no limit, so credits spent are deductions made
LEVEL = "pro"


class BenchError(Exception):
    """A benchmark could not be carried out, or its result would be no result; the message says why."""


def load_catalog() -> Catalog:
    """The catalog that the benchmarks' servers serve."""
    import tomllib

    return parse_catalog(tomllib.loads(CATALOG.read_text(encoding="utf-8")))


Say = Callable[[str], None]


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a benchmark and ends the process; why it could not be carried out is told in a line."""
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"error: {error}")


class Site:
    """A running Postgres and the folder that everything of a benchmark lies in."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder = folder
        self.log = folder / "postgres.log"
        self.data = folder / "postgres"
        self.dsn = dsn
        self.socket_folder = parse_qs(urlsplit(dsn).query)["host"][0]
        self.programs = Path(self.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'")[0][0])

    def database(self, name: str) -> str:
        """The DSN of a database."""
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))

    def create(self, name: str, template: str | None = None) -> str:
        """A database: a copy of ``template``, or a ledger without accounts. Returns its DSN."""
        if template is not None:
            self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            return self.database(name)
        self.execute(f"CREATE DATABASE {name}")
        schema.migrate(self.database(name))
        return self.database(name)

    def drop(self, name: str) -> None:
        """Drops a database."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, statement: str, database: str | None = None) -> list[Any]:
        """Runs a statement and returns its rows, if it has any."""
        with psycopg.connect(self.database(database) if database else self.dsn, autocommit=True) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def site() -> Iterator[Site]:
    """A Postgres for as long as the block lasts; its folder is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="creditledger-bench-") as name:
        folder = Path(name)
        with embedded_postgres(folder, notice=lambda _line: None) as dsn:
            yield Site(folder, dsn)


class Server:
    """A process that serves gRPC on ``target``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        words = process.stdout.readline().split()
        if words[:1] != ["ready:"]:
            process.kill()
            raise BenchError(f"a server did not start; its exit status is {process.wait()}")
        self.target = words[1]

    def cpu_seconds(self) -> float:
        """CPU time that the process and those it started have used."""
        processes = [
            psutil.Process(self.process.pid),
            *psutil.Process(self.process.pid).children(recursive=True),
        ]
        return sum(each.cpu_times().user + each.cpu_times().system for each in processes)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not do."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def started(command: Sequence[str]) -> Iterator[Server]:
    """A server for as long as the block lasts; it says ``ready: HOST:PORT`` on stdout when it takes calls."""
    server = Server(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
    try:
        yield server
    finally:
        server.stop()


def serving(dsn: str, *options: str, catalog: Path = CATALOG) -> list[str]:
    """The command that serves a database on a free port."""
    command = [*COMMAND, "serve", "--database-url", dsn, "--listen", "127.0.0.1:0"]
    return [*command, "--catalog", str(catalog), *options]


def knows_workers() -> bool:
    """Whether ``serve`` can start several processes."""
    text = subprocess.run([*COMMAND, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    return "--workers" in text
