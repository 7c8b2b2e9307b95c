"""Postgres alone: the statements that the server sent, recorded by Postgres and sent again by pgbench.

A server is loaded while Postgres logs every statement with its parameters. Each lane's transactions, in their order,
are then replayed by a pgbench client of its own (``-M prepared``) on a copy of the database as it was before: locks,
look-ups, updates, inserts and index entries are the very same. The parameters come out of a table, by a statement
whose time is not counted.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import psycopg
from creditledger_server.config import load_settings
from creditledger_server.storage.connect import Database

from . import audit
from .generators import batches
from .sample import Sample
from .site import BenchError, Site, serving, started

BASE = "replay_base"
DEDUCTIONS = 40_000
"""How many are recorded, in batches of whatever size the server forms."""
_RECORDED = "replay_recorded"
_COPY = "replay_copy"

_LINE = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \w+ \[(\d+)\] (\w+):  ", re.MULTILINE)
_STATEMENT = re.compile(r"(?:execute [^:]*|statement): (.*)", re.DOTALL)
_PARAMETER = re.compile(r"\$\d+ = (?:NULL|'((?:[^']|'')*)')")
_LATENCY = re.compile(r"^\s+(\d+\.\d+)\s+\d+\s+\S", re.MULTILINE)


class Statement(NamedTuple):
    """A statement with ``$n`` in it, and its parameters as text."""

    text: str
    parameters: tuple[str, ...]


Transaction = list[Statement]


class Replay:
    """The recorded transactions, each of ``statements``, ``per_lane`` on each lane; as often as they are wanted."""

    def __init__(
        self, site: Site, statements: Sequence[str], lanes: int, per_lane: int, options: str
    ) -> None:
        self._site = site
        self._statements = statements
        self._lanes = lanes
        self._per_lane = per_lane
        self._options = options

    def __call__(self, _count: int) -> Sample:
        """Replays all of it on a fresh copy; operations are the entries written."""
        cpu = _children_cpu()
        entries, latencies = self._replay()
        cpu = _children_cpu() - cpu
        per_commit = entries / (self._lanes * self._per_lane)
        return Sample(entries, self._per_lane * sum(latencies) / 1_000, cpu, per_commit=per_commit)

    def by_statement(self) -> dict[str, float]:
        """Microseconds per entry that one client takes for each statement, while the others are at it too."""
        entries, latencies = self._replay()
        per_commit = entries / (self._lanes * self._per_lane)
        spans = {
            _label(text): 1_000 * latency / per_commit
            for text, latency in zip(self._statements, latencies, strict=True)
        }
        return {**spans, "all of it": sum(spans.values())}

    def _replay(self) -> tuple[int, list[float]]:
        """Entries written, and the milliseconds of each statement of a transaction on average."""
        self._site.drop(_COPY)
        self._site.create(_COPY, BASE)
        before = audit.totals(self._site, _COPY)
        report = self._pgbench()
        entries = audit.totals(self._site, _COPY).entries - before.entries
        self._site.drop(_COPY)
        # The first is the statement that fetches the parameters, the second counts in pgbench itself.
        _fetch, _number, *latencies = map(float, _LATENCY.findall(report))
        if len(latencies) != len(self._statements) or not entries:
            raise BenchError(f"pgbench replayed something else: {report}")
        return entries, latencies

    def _pgbench(self) -> str:
        command = [
            str(self._site.programs / "pgbench"), "--no-vacuum", "--protocol=prepared", "--report-per-command",
            f"--client={self._lanes}", f"--jobs={self._lanes}", f"--transactions={self._per_lane}",
            "--define=number=0", f"--file={_script_file(self._site)}",
            f"--host={self._site.socket_folder}", "--port=5432", "--username=postgres", _COPY,
        ]  # fmt: skip
        result = subprocess.run(
            command, env=os.environ | {"PGOPTIONS": self._options}, capture_output=True, text=True
        )
        if result.returncode:
            raise BenchError(f"pgbench: {result.stderr.strip()[-300:]}")
        return result.stdout


async def record(site: Site, template: str, accounts: range, deductions: int, load: Executor) -> Replay:
    """Records the server's statements for ``deductions`` in batches on a copy of ``template``."""
    site.create(_RECORDED, template)
    site.create(BASE, template)
    site.execute(f"ALTER DATABASE {_RECORDED} SET log_statement = 'all'")
    start = site.log.stat().st_size
    with started(serving(site.database(_RECORDED))) as server:
        load.submit(batches, server.target, accounts, deductions).result()
    with site.log.open(encoding="utf-8") as log:
        log.seek(start)
        lanes = uniform(read_transactions(log.read()))
    site.drop(_RECORDED)
    per_lane = min(map(len, lanes))
    _script_file(site).write_text(_script(lanes[0][0]))
    _store(site, lanes)
    statements = [text for text, _ in lanes[0][0]]
    return Replay(site, statements, len(lanes), per_lane, await _client_settings(site.database(BASE)))


def read_transactions(log: str) -> dict[str, list[Transaction]]:
    """The transactions of each session that wrote entries."""
    sessions: dict[str, list[Transaction]] = {}
    for pid, statement in _statements(log):
        if statement.text == "BEGIN":
            sessions.setdefault(pid, []).append([])
        if pid in sessions:
            sessions[pid][-1].append(statement)
    written = {
        pid: [each for each in transactions if any("INSERT INTO entry" in text for text, _ in each)]
        for pid, transactions in sessions.items()
    }
    return {pid: transactions for pid, transactions in written.items() if transactions}


def _statements(log: str) -> Iterator[tuple[str, Statement]]:
    lines = list(_LINE.finditer(log))
    ends = [match.start() for match in lines[1:]] + [len(log)]
    messages = [(match[1], match[2], log[match.end() : end]) for match, end in zip(lines, ends, strict=False)]
    details = [*messages[1:], ("", "", "")]
    for (pid, kind, text), (_, next_kind, next_text) in zip(messages, details, strict=False):
        found = _STATEMENT.match(text) if kind == "LOG" else None
        if found:
            parameters = _PARAMETER.findall(next_text) if next_kind == "DETAIL" else []
            cleaned = tuple(value.replace("''", "'") for value in parameters)
            yield pid, Statement(found[1].replace("\n\t", "\n").strip(), cleaned)


def uniform(sessions: dict[str, list[Transaction]]) -> list[list[Transaction]]:
    """The transactions of each lane that consist of the statements that most consist of."""
    shapes = Counter(
        tuple(statement.text for statement in transaction)
        for transactions in sessions.values()
        for transaction in transactions
    )
    if not shapes:
        raise BenchError("no statements of the write path were found in Postgres's log")
    [(usual, count)] = shapes.most_common(1)
    if count < 0.9 * shapes.total():
        raise BenchError(f"transactions differ too much to be replayed by one script: {shapes.values()}")
    lanes = [
        [each for each in transactions if tuple(statement.text for statement in each) == usual]
        for transactions in sessions.values()
    ]
    return [lane for lane in lanes if lane]


def _script(transaction: Transaction) -> str:
    """A transaction for pgbench; parameter n of all is its variable pn."""
    total = sum(len(statement.parameters) for statement in transaction)
    columns = ", ".join(f"p{number}" for number in range(total))
    lines = [
        f"SELECT {columns} FROM replay WHERE lane = :client_id AND number = :number \\gset",
        "\\set number :number + 1",
    ]
    first = 0
    for text, parameters in transaction:
        sent = re.sub(r"\$(\d+)", lambda match, first=first: f":p{first + int(match[1]) - 1}", text)  # type: ignore[misc]
        lines.append(f"{sent.rstrip(';')};")
        first += len(parameters)
    return "\n".join(lines) + "\n"


def _store(site: Site, lanes: list[list[Transaction]]) -> None:
    total = sum(len(statement.parameters) for statement in lanes[0][0])
    columns = [f"p{number}" for number in range(total)]
    declared = ", ".join(f"{name} text STORAGE EXTERNAL" for name in columns)
    with psycopg.connect(site.database(BASE)) as conn:
        conn.execute(
            f"CREATE TABLE replay (lane int, number int, {declared}, PRIMARY KEY (lane, number))".encode()
        )
        with conn.cursor().copy(b"COPY replay FROM STDIN") as copy:
            for lane, transactions in enumerate(lanes):
                for number, transaction in enumerate(transactions):
                    copy.write_row([lane, number, *(p for each in transaction for p in each.parameters)])
    site.execute("VACUUM (ANALYZE)", BASE)


def _label(statement: str) -> str:
    """A statement in a few words."""
    if "FOR NO KEY UPDATE" in statement:
        return "SELECT … FOR NO KEY UPDATE"
    if "INSERT INTO" not in statement and "FROM entry" in statement:
        return "SELECT … FROM entry (request ids)"
    return " ".join(statement.split("(")[0].split()[:3])


async def _client_settings(dsn: str) -> str:
    """The settings that the ledger's connections ask Postgres for, as options for pgbench's."""
    defaults = load_settings()
    database = Database(
        dsn, pool_size=1,
        lock_timeout=defaults.lock_timeout_ms, statement_timeout=defaults.statement_timeout_ms,
    )  # fmt: skip
    async with await database.connect() as conn:
        cursor = await conn.execute("SELECT name, setting FROM pg_settings WHERE source = 'client'")
        rows = await cursor.fetchall()
    escaped = [(name, value.replace("\\", "\\\\").replace(" ", "\\ ")) for name, value in rows]
    return " ".join(f"-c {name}={value}" for name, value in escaped if name != "application_name")


def _script_file(site: Site) -> Path:
    return site.folder / "replay.sql"


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
