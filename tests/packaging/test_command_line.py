"""The command ``creditledger-server`` as its user meets it: what it prints, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from creditledger_server import embedded
from ledger_harness import CATALOG, ServerProcess
from usage_histories import random_uses, write_history

COMMAND = [sys.executable, "-m", "creditledger_server.cli"]


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _failure(*arguments: str, **environment: str) -> str:
    """What a command that must fail says: one line."""
    result = _run(*arguments, **environment)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def bad_catalog(tmp_path: Path) -> str:
    file = tmp_path / "catalog.toml"
    file.write_text('default_level = "gone"\n[operations.draw]\nprice = { flat = -1 }\n[levels.free]\n')
    return str(file)


@pytest.mark.parametrize(
    "command",
    ["", "serve", "migrate", "migrate up", "migrate status", "catalog check", "verify", "rebuild-usage"],
)
def test_help_teaches(command: str) -> None:
    result = _run(*command.split(), "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) > 8


def test_help_loads_neither_grpc_nor_the_database_driver() -> None:
    program = (
        "import sys, creditledger_server.cli; print(*sys.modules.keys() & {'grpc', 'psycopg', 'sqlalchemy'})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "\n"


def test_catalog_check_counts_what_a_good_one_holds() -> None:
    result = _run("catalog", "check", str(CATALOG))
    assert (result.returncode, result.stderr) == (0, "")
    assert " valid, " in result.stdout


def test_catalog_check_names_every_mistake(bad_catalog: str) -> None:
    result = _run("catalog", "check", bad_catalog)
    assert (result.returncode, result.stderr) == (1, "")
    assert {line.partition(": ")[0] for line in result.stdout.splitlines()} == {
        "default_level",
        "operations.draw.price.flat",
    }


def test_a_broken_catalog_is_told_in_a_line(bad_catalog: str, tmp_path: Path) -> None:
    assert "catalog check" in _failure("serve", "--catalog", bad_catalog)
    Path(bad_catalog).write_text("levels = [")
    for arguments in (["serve", "--catalog"], ["catalog", "check"]):
        assert "not TOML" in _failure(*arguments, bad_catalog)
        assert "No such file" in _failure(*arguments, str(tmp_path / "missing.toml"))


def test_a_bad_setting_is_told_in_a_line() -> None:
    assert "CREDITLEDGER_LANES" in _failure("serve", CREDITLEDGER_LANES="0")
    assert "HOST:PORT" in _failure("serve", "--listen", "50051")
    assert "--insecure" in _failure("serve", "--listen", "0.0.0.0:50051")


@pytest.mark.parametrize("command", ["serve", "migrate up", "migrate status", "verify", "rebuild-usage"])
def test_an_unreachable_database_is_told_in_a_line(command: str) -> None:
    url = "postgresql://u:secret@127.0.0.1:1/x"
    line = _failure(*command.split(), CREDITLEDGER_DATABASE_URL=url)
    assert "Connection refused" in line
    assert "secret" not in line


def test_a_database_of_another_version_is_told_in_a_line(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in ("serve", "serve --migrate", "migrate up", "verify", "rebuild-usage"):
        assert "9999" in _failure(*command.split(), "--database-url", dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("DELETE FROM alembic_version")
    assert "migrate up" in _failure("serve", "--database-url", dsn)


def test_a_taken_port_is_told_in_a_line(dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in _failure("serve", "--listen", address, "--database-url", dsn)


def test_migrate_tells_what_it_did(dsn: str) -> None:
    assert "up to date" in _run("migrate", "up", "--database-url", dsn).stdout
    assert " applied " in _run("migrate", "status", "--database-url", dsn).stdout
    assert "CREATE TABLE entry" in _run("migrate", "--sql").stdout


def test_verify_counts(server: ServerProcess, dsn: str) -> None:
    assert server.stop() == 0
    result = _run("verify", "--database-url", dsn)
    assert (result.returncode, result.stdout) == (0, "accounts=0 entries=0 mismatches=0\n")


def test_rebuild_usage_counts_and_tells_what_it_repaired(dsn: str) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    with psycopg.connect(dsn) as connection:
        write_history(connection, "user-1", random_uses(1, 2_500, start, start + timedelta(days=9)))
        write_history(connection, "user-2", random_uses(2, 999, start, start + timedelta(days=9)))
    first = _run("rebuild-usage", "--database-url", dsn)
    assert (first.returncode, first.stdout, first.stderr) == (
        0,
        "accounts=1 entries=2000 differences=0\n",
        "",
    )

    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE usage_rollup SET uses = uses + 1 WHERE operation = 'voice_creation'")
        [(count, since)] = connection.execute(
            "SELECT count(*), min(quarter_start) FROM usage_rollup WHERE operation = 'voice_creation'"
        ).fetchall()
    second, third = (_run("rebuild-usage", "--database-url", dsn) for _ in range(2))

    assert (second.returncode, second.stderr, third.stdout) == (1, "", first.stdout)
    assert second.stdout == (
        f"accounts=1 entries=2000 differences={count}\n"
        f"user-1: {count} sums of usage do not match the entries, first that of voice_creation from"
        f" {since:%Y-%m-%dT%H:%M}:00.000000Z\n"
    )


def _serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A server on an embedded Postgres, and the line that it prints when it is ready."""
    options = ["--embedded", str(folder), "--listen", "127.0.0.1:0", "--migrate", "--catalog", str(CATALOG)]
    # In a session of its own, so that it can be sent what Ctrl-C sends: a signal to all its processes.
    process = subprocess.Popen(
        [*COMMAND, "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    return process, process.stdout.readline()


def _postmaster(folder: Path) -> Path:
    return folder / "postgres" / "postmaster.pid"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_serve_with_an_embedded_postgres_ends_cleanly_and_finds_its_data(
    tmp_path: Path, how: signal.Signals
) -> None:
    for first in (True, False):
        process, line = _serve(tmp_path)
        address = line.split()[1]
        assert line == (
            f"ready: {address}  try: grpcurl -plaintext {address} creditledger.v1.LedgerAdmin/GetServerInfo\n"
        )
        assert _postmaster(tmp_path).exists()
        os.killpg(process.pid, how)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
        assert "Traceback" not in err
        assert ("migrated: " in err) is first
        assert not _postmaster(tmp_path).exists()


def test_commands_join_a_running_server_on_its_folder(tmp_path: Path) -> None:
    process, _ = _serve(tmp_path)
    assert _run("migrate", "status", "--embedded", str(tmp_path)).returncode == 0
    assert _postmaster(tmp_path).exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with embedded.embedded_postgres(tmp_path, lambda _line: None):
        pass  # Stops what the kill left behind.
    assert not _postmaster(tmp_path).exists()
