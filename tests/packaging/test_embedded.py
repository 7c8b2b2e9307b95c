"""The embedded Postgres: it keeps its data, is shared, and is stopped by its last user, however the others ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from creditledger_server import embedded
from creditledger_server.embedded import EmbeddedError, embedded_postgres

USER = """
import sys, time
from pathlib import Path
from creditledger_server.embedded import embedded_postgres
with embedded_postgres(Path(sys.argv[1]), lambda line: None) as dsn:
    print(dsn, flush=True)
    time.sleep(60)
"""


def _ignore(_line: str) -> None:
    pass


def _query(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]


def _create(dsn: str, table: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(f"CREATE TABLE {table} ()".encode())


def _postmaster(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _other_user(folder: Path) -> subprocess.Popen[str]:
    """Another process that uses the server."""
    process = subprocess.Popen([sys.executable, "-c", USER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline().startswith("postgresql://")
    return process


def _end(process: subprocess.Popen[str], how: signal.Signals) -> int:
    process.send_signal(how)
    process.communicate(timeout=30)
    return process.returncode


def test_data_outlives_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "a folder's %2F name"
    with embedded_postgres(folder, _ignore) as dsn:
        assert _query(dsn, "SHOW server_version").startswith("18.")
        _create(dsn, "kept")
        first = _postmaster(folder)
    assert not _runs(first)
    with embedded_postgres(folder, _ignore) as dsn:
        assert _query(dsn, "SELECT count(*) FROM kept") == 0


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path / ("x" * 120), _ignore) as dsn:
        (socket_folder,) = _query(dsn, "SHOW unix_socket_directories").split(",")
        assert _query(dsn, "SELECT 1") == 1
    assert not Path(socket_folder).exists()


def test_the_environment_of_its_user_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LC_ALL": "xx_YY.UTF-8", "LANG": "xx_YY", "PGPORT": "1", "PGHOST": "nowhere"}.items():
        monkeypatch.setenv(name, value)
    with embedded_postgres(tmp_path, _ignore) as dsn:
        assert _query(dsn, "SHOW server_encoding") == "UTF8"


def test_the_last_user_stops_it(tmp_path: Path) -> None:
    other = _other_user(tmp_path)
    with embedded_postgres(tmp_path, _ignore) as dsn:
        assert _end(other, signal.SIGINT) != 0
        assert _query(dsn, "SELECT 1") == 1
        postmaster = _postmaster(tmp_path)
    assert not _runs(postmaster)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it(tmp_path: Path, how: signal.Signals) -> None:
    user = _other_user(tmp_path)
    postmaster = _postmaster(tmp_path)
    _end(user, how)
    assert not _runs(postmaster)


def test_one_left_by_kill_9_is_taken_over_and_stopped(tmp_path: Path) -> None:
    user = _other_user(tmp_path)
    postmaster = _postmaster(tmp_path)
    _end(user, signal.SIGKILL)
    assert _runs(postmaster)
    with embedded_postgres(tmp_path, _ignore):
        assert _postmaster(tmp_path) == postmaster
    assert not _runs(postmaster)


def test_it_recovers_from_kill_9_of_everything(tmp_path: Path) -> None:
    user = _other_user(tmp_path)
    with embedded_postgres(tmp_path, _ignore) as dsn:
        _create(dsn, "committed")
        # Both, so that nobody is left to reap or to restart it.
        os.kill(_postmaster(tmp_path), signal.SIGKILL)
        _end(user, signal.SIGKILL)
    with embedded_postgres(tmp_path, _ignore) as dsn:
        assert _query(dsn, "SELECT count(*) FROM committed") == 0


def test_another_program_may_have_its_number(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path, _ignore):
        note = (tmp_path / "postgres" / "postmaster.pid").read_text().splitlines()
    # As after a crash of the machine.
    (tmp_path / "postgres" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *note[1:]]))
    with embedded_postgres(tmp_path, _ignore) as dsn:
        assert _query(dsn, "SELECT 1") == 1


def test_an_interrupted_setup_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    with embedded_postgres(tmp_path, _ignore) as dsn:
        assert _query(dsn, "SELECT 1") == 1


def test_why_it_does_not_start_is_told_in_a_line(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path, _ignore):
        pass
    (tmp_path / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(EmbeddedError, match="incompatible") as caught, embedded_postgres(tmp_path, _ignore):
        pass
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match="file"), embedded_postgres(tmp_path / "file" / "data", _ignore):
        pass


def test_a_missing_extra_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with (
        pytest.raises(EmbeddedError, match=r"creditledger-server\[embedded\]"),
        embedded_postgres(tmp_path, _ignore),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's Postgres runs as somebody else")
def test_root_is_told_what_it_does_to_the_machine(tmp_path: Path) -> None:
    notices: list[str] = []
    with embedded_postgres(tmp_path, notices.append) as dsn:
        assert _query(dsn, "SELECT current_user") == "postgres"
        assert psutil.Process(_postmaster(tmp_path)).username() == embedded.SYSTEM_USER
    assert len(notices) == 1
    assert "root" in notices[0]
