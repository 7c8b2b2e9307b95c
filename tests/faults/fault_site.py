"""What a fault happens to: a Postgres of its own, two servers and three client processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, LiteralString, Self

import psycopg
from creditledger_server.storage import schema
from fault_checker import Away
from fault_entries import read_entries
from fault_load import LoadPlan
from fault_terms import Entry
from ledger_harness import ServerProcess
from own_postgres import OwnPostgres
from protocol_cuts import AnswerCuts, CommitCuts, CommitDelays, Cutter, Point
from tcp_proxy import TcpProxy, Watch, dsn_through, postgres_address

SERVERS = 2
CLIENTS = 3
CALLERS = 8
"""Calls at once, per client process."""

_SECONDS = 120.0


@dataclass(frozen=True)
class Layout:
    """What is special about a fault's site.

    ``through`` puts a proxy between each server and Postgres, cutting at ``point`` if there is one; ``load`` are fields
    of the clients' plans, ``env`` settings of the servers. ``tmpfs`` is the size in MB of a file system for Postgres.
    With ``delay``, COMMITs wait at the proxy for up to so many seconds.
    """

    through: bool = False
    point: Point | None = None
    row: int = 1
    answers: bool = False
    env: dict[str, str] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    callers: int = CALLERS
    accounts: int = 12
    tmpfs: int = 0
    delay: float = 0.0


class Client:
    """A client process; see ``fault_load``, or another ``program``. ``plan`` is the plan of one, a dataclass."""

    def __init__(self, plan: Any, program: str = "fault_load.py") -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(program))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "GRPC_VERBOSITY": "NONE",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        )
        self.command(asdict(plan))

    def await_ready(self) -> None:
        """Waits until it takes commands."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", (
            "a client did not start; its traceback is on stderr"
        )

    def command(self, what: dict[str, Any]) -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def ask(self, what: dict[str, Any]) -> Any:
        """Sends a line, waits for one, and returns what it tells."""
        self.command(what)
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def result(self) -> Any:
        """Waits for its end; what it tells."""
        output, _ = self._process.communicate(timeout=_SECONDS)
        assert self._process.returncode == 0, "a client failed; its traceback is on stderr"
        return json.loads(output)

    def kill(self) -> None:
        """Ends it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


class Site:
    """All of it, for as long as the block lasts. ``events`` are the times at which each fault was over."""

    def __init__(self, layout: Layout, seed: int) -> None:
        self.layout = layout
        self.seed = seed
        self.accounts = [f"account-{number:02}" for number in range(layout.accounts)]
        self.random = random.Random(seed)
        self.events: list[float] = []
        self.away: list[Away] = []
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.servers: list[ServerProcess] = []
        self.proxies: list[TcpProxy] = []
        self.cutter = Cutter(seed, layout.row)
        self.folder = Path(tempfile.mkdtemp(prefix="fault-"))
        self.postgres = OwnPostgres(self.folder / "pg")
        self.clients: list[Client] = []
        self._stack = ExitStack()
        self._opened: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        with ExitStack() as stack:
            stack.callback(self._stack.close)
            self._build()
            stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def start_load(self) -> None:
        """Has the clients make calls."""
        plans = [self.plan("load", f"c{n}") for n in range(CLIENTS)]
        self.clients = [self.client(plan) for plan in plans]
        for client in self.clients:
            client.await_ready()
        self.command({"callers": self.layout.callers})

    def command(self, what: dict[str, Any]) -> None:
        """Tells all clients what to do from now on."""
        for client in self.clients:
            client.command(what)

    def end_load(self) -> None:
        """Lets the clients finish what they have begun."""
        self.command({"stop": True})
        for client in self.clients:
            client.result()

    def finish(self, watch: bool = True) -> dict[str, Any]:
        """Resolves what is unknown and, to ``watch``, reads by WatchUsage: see ``fault_load``."""
        plan = self.plan("finish", "end", cursors=self._opened["cursors"] if watch else [])
        return {**self._opened, **self.client(plan).result()}

    def client(self, plan: Any, program: str = "fault_load.py") -> Client:
        """A client process, which ends with the site at the latest."""
        client = Client(plan, program)
        self._stack.callback(client.kill)
        return client

    def histories(self) -> list[Path]:
        """The files of all clients."""
        return sorted(self.folder.glob("*.jsonl"))

    def entries(self) -> list[Entry]:
        """The history by SQL."""
        with psycopg.connect(self.dsn) as conn:
            return read_entries(conn)

    @property
    def dsn(self) -> str:
        """The way to Postgres past all proxies."""
        return self.postgres.dsn

    def rows(self, query: LiteralString) -> list[tuple[Any, ...]]:
        """What a query tells."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return conn.execute(query).fetchall()

    def start_server(self, number: int) -> None:
        """Starts a server where it was before."""
        self.servers[number] = self._server(number)

    def over(self) -> None:
        """Notes that a fault is over as of now."""
        self.events.append(time.monotonic())

    def _build(self) -> None:
        if self.layout.tmpfs:
            _mount(self.folder / "pg", self.layout.tmpfs)
            self._stack.callback(_unmount, self.folder / "pg")
        self.folder.chmod(0o755)
        self._stack.enter_context(self.postgres)
        schema.migrate(self.dsn)
        self._ports = [_free_port() for _ in range(SERVERS)]
        if self.layout.through:
            proxies = [
                TcpProxy(postgres_address(self.dsn), self._watch, self.cutter.admits) for _ in self._ports
            ]
            self.proxies += [self._stack.enter_context(proxy) for proxy in proxies]
        with ThreadPoolExecutor(SERVERS) as pool:
            self.servers = list(pool.map(self._server, range(SERVERS)))
        self.targets = [f"127.0.0.1:{port}" for port in self._ports]
        self._opened = self.client(self.plan("open", "open")).result()
        if self.layout.answers:
            self._stand_between_clients_and_servers()

    def _stand_between_clients_and_servers(self) -> None:
        for number, port in enumerate(self._ports):
            proxy = TcpProxy(("127.0.0.1", port), lambda: AnswerCuts(self.cutter))
            self.proxies.append(self._stack.enter_context(proxy))
            self.targets[number] = f"127.0.0.1:{proxy.port}"

    def _watch(self) -> Watch:
        if self.layout.delay:
            return CommitDelays(self.layout.delay)
        return CommitCuts(self.cutter, self.layout.point) if self.layout.point else Watch()

    def plan(self, job: str, name: str, **fields: Any) -> LoadPlan:
        """The plan of a client process."""
        return LoadPlan(
            job=job, name=name, folder=str(self.folder), targets=self.targets, accounts=self.accounts,
            seed=self.random.randrange(1 << 32), **self.layout.load, **fields,
        )  # fmt: skip

    def _server(self, number: int) -> ServerProcess:
        dsn = dsn_through(self.proxies[number], self.dsn) if self.layout.through else self.dsn
        env = {"CREDITLEDGER_HEARTBEAT_SECONDS": "0.3", **self.layout.env}
        server = ServerProcess(dsn, "--listen", f"127.0.0.1:{self._ports[number]}", env=env)
        self._stack.callback(_end_server, server)
        return server


def _end_server(server: ServerProcess) -> None:
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGCONT)
        server.kill()


def _free_port() -> int:
    """One below those that systems give to connections: a server that was killed finds it free again."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _mount(folder: Path, size: int) -> None:
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=755", "tmpfs", str(folder)],
        check=True,
        capture_output=True,
    )


def _unmount(folder: Path) -> None:
    with suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)
