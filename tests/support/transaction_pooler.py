"""A pgbouncer in transaction mode in front of the tests' Postgres: sessions change hands with every transaction."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SESSIONS = 4
"""Fewer than a server opens connections, so that they have to be shared."""

_CONFIG = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 200
server_reset_query_always = 1
logfile = {folder}/log
"""


@contextmanager
def pooled(dsn: str) -> Iterator[str]:
    """The DSN of the same database through a pooler that runs as long as the block."""
    assert PGBOUNCER is not None
    with psycopg.connect(dsn) as conn:
        server = {"host": conn.info.host, "port": str(conn.info.port), "user": conn.info.user}
        database = conn.info.dbname
    listen = _free_port()
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        config = folder / "pgbouncer.ini"
        config.write_text(_CONFIG.format(**server, listen=listen, sessions=SESSIONS, folder=folder))
        # It refuses to run as root, and has to reach Postgres's socket.
        owner = Path(server["host"]).owner() if server["host"].startswith("/") else "nobody"
        user = ["-u", owner] if os.geteuid() == 0 else []
        with subprocess.Popen([PGBOUNCER, "-q", *user, str(config)]) as process:
            try:
                _await_port(listen)
                yield f"postgresql://{server['user']}@127.0.0.1:{listen}/{database}"
            finally:
                process.terminate()


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
