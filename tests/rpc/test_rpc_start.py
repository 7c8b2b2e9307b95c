"""Starting and stopping: what cannot work is told in one line, and what was written stays."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import grpc
import psycopg
import pytest
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from ledger_calls import (
    TIMEOUT,
    Ledger,
    code_of,
    deduction,
    ready_line,
    serve_command,
    serving,
    without_replayed,
)
from ledger_harness import CATALOG, Postgres, ServerProcess, with_database
from ledger_load import await_true, rows

ANY_PORT = ("--listen", "127.0.0.1:0")
CLOSED = "postgresql://somebody:s3cret@127.0.0.1:1/nowhere"


def refusal_to_start(*options: str, env: dict[str, str] | None = None) -> str:
    """The one line with which a server that cannot start tells so."""
    with serve_command(*options, env=env) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode not in (0, None)
    assert output == ""
    [line] = errors.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line and ".py" not in line
    return line.removeprefix("error: ")


@contextmanager
def started(
    *options: str, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], Ledger]]:
    """A server with these options and calls to it."""
    with (
        serve_command(*options, env=env) as process,
        Ledger(ready_line(process).split()[1].replace("0.0.0.0", "127.0.0.1")) as ledger,
    ):
        yield process, ledger


def on(dsn: str, *options: str) -> Sequence[str]:
    return ("--database-url", dsn, *ANY_PORT, *options)


def test_a_port_that_is_taken(server: ServerProcess, dsn: str) -> None:
    line = refusal_to_start("--database-url", dsn, "--listen", server.target)

    assert server.target in line
    with Ledger(server.target) as ledger:
        assert ledger.deduct(ledger.open(credits_=1)).cost == 1


def test_a_port_is_not_shared_even_with_those_who_would(server: ServerProcess) -> None:
    host, _, port = server.target.rpartition(":")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((host, int(port)))


def test_an_address_that_is_not_of_this_machine(dsn: str) -> None:
    line = refusal_to_start("--database-url", dsn, "--listen", "192.0.2.1:0", "--insecure")

    assert "192.0.2.1:0" in line


BROKEN_CATALOGS: dict[str, tuple[str, str]] = {
    "not TOML": ("[operations", "not TOML"),
    "empty": ("", "levels is required (and 1 more"),
    "allowance": (
        'default_level = "free"\n[levels.free]\nallowance = { credits = 0, period = "day" }\n', "levels.free.allowance",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "told"), BROKEN_CATALOGS.values(), ids=BROKEN_CATALOGS.keys())
def test_a_broken_catalog(dsn: str, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(text)

    line = refusal_to_start(*on(dsn, "--catalog", str(file)))

    assert told in line
    assert rows(dsn, "SELECT count(*) FROM catalog") == [(0,)]


def test_a_catalog_that_is_not_there(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "missing.toml"

    assert str(file) in refusal_to_start(*on(dsn, "--catalog", str(file)))


def test_a_database_that_cannot_be_reached() -> None:
    line = refusal_to_start(*on(CLOSED))

    assert "127.0.0.1" in line
    assert "s3cret" not in line


def test_a_database_that_does_not_exist(postgres: Postgres) -> None:
    assert "no_such_database" in refusal_to_start(*on(with_database(postgres.dsn, "no_such_database")))


@pytest.mark.parametrize("url", ["mysql://somebody:s3cret@127.0.0.1/x", "postgresql://%%%"])
def test_a_database_url_that_is_none(url: str) -> None:
    line = refusal_to_start(*on(url))

    assert "s3cret" not in line
    assert "postgresql://" in line


def test_a_database_that_was_not_migrated(dsn: str) -> None:
    rows(dsn, "DROP TABLE alembic_version")

    assert "migrate" in refusal_to_start(*on(dsn))


def test_a_database_that_a_newer_server_migrated(dsn: str) -> None:
    rows(dsn, "UPDATE alembic_version SET version_num = '9999'")

    for options in ((), ("--migrate",)):
        assert "9999" in refusal_to_start(*on(dsn, *options))


@pytest.mark.parametrize("address", ["0.0.0.0:0", "example.com:50051"])
def test_an_address_that_others_reach_without_insecure(dsn: str, address: str) -> None:
    line = refusal_to_start("--database-url", dsn, "--listen", address)

    assert address in line
    assert "--insecure" in line


def test_an_address_that_others_reach_with_insecure(dsn: str) -> None:
    with started("--database-url", dsn, "--listen", "0.0.0.0:0", "--insecure") as (_, ledger):
        assert ledger.call(admin_pb.GetServerInfoRequest()).ledger_id


def test_a_setting_of_the_environment_without_a_meaning(dsn: str) -> None:
    assert "CREDITLEDGER_LANES" in refusal_to_start(*on(dsn), env={"CREDITLEDGER_LANES": "0"})


def test_ready_is_told_in_one_line_with_the_address(dsn: str) -> None:
    with serve_command(*on(dsn, "--catalog", str(CATALOG))) as process:
        line = ready_line(process)
        assert re.fullmatch(r"ready: 127\.0\.0\.1:[1-9]\d*\b.*\n", line)
        with Ledger(line.split()[1]) as ledger:
            ledger.deduct(ledger.open(credits_=1))
        process.terminate()
        output, errors = process.communicate(timeout=TIMEOUT)

    assert output == ""
    assert "rror" not in errors and "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_0(dsn: str, number: signal.Signals) -> None:
    with started(*on(dsn, "--catalog", str(CATALOG))) as (process, ledger):
        request = deduction(ledger.open(credits_=1))
        ledger.call(request)
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT)

        assert process.returncode == 0
        assert "Traceback" not in errors
        assert code_of(lambda: ledger.call(request, timeout=5)) is grpc.StatusCode.UNAVAILABLE


def test_a_call_under_way_is_answered_before_the_end(dsn: str) -> None:
    patient = {"CREDITLEDGER_LOCK_TIMEOUT_MS": "60000", "CREDITLEDGER_STATEMENT_TIMEOUT_MS": "60000"}
    with serving(dsn, env=patient) as (process, ledger):
        account = ledger.open(credits_=5)
        request = deduction(account)
        with psycopg.connect(dsn) as other:
            other.execute("SELECT FROM account WHERE account_id = %s FOR UPDATE", [account])
            data = request.SerializeToString()
            call = ledger.channel.unary_unary("/creditledger.v1.CreditLedger/Deduct").future(
                data, timeout=TIMEOUT
            )
            waiting: LiteralString = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            await_true(lambda: rows(dsn, waiting) == [(1,)])
            process.process.terminate()
        assert call.exception(timeout=TIMEOUT) is None
        assert process.wait() == 0

    with serving(dsn) as (_, ledger):
        assert ledger.call(request).replayed


@pytest.mark.parametrize("end", [ServerProcess.stop, ServerProcess.kill], ids=["SIGTERM", "kill -9"])
def test_a_second_start_keeps_everything(dsn: str, end: Callable[[ServerProcess], object]) -> None:
    with serving(dsn) as (process, ledger):
        account = ledger.open(credits_=10)
        first = ledger.deduct(account, "voice_creation")
        info = ledger.call(admin_pb.GetServerInfoRequest())
        catalog, history = ledger.call(admin_pb.GetCatalogRequest()), ledger.entries(account)
        end(process)

    with serving(dsn, env={"CREDITLEDGER_DECIMALS": "0"}) as (_, ledger):
        again = ledger.deduct(account, "voice_creation", request_id=first.entry.request_id)
        told = ledger.call(admin_pb.GetServerInfoRequest())

        assert without_replayed(again) == first
        assert ledger.entries(account) == history
        assert ledger.call(admin_pb.GetCatalogRequest()) == catalog
        assert (told.ledger_id, told.decimals) == (info.ledger_id, info.decimals)
        assert ledger.deduct(account).entry.revision == 4


def test_the_decimals_of_the_first_start_are_kept(dsn: str) -> None:
    with serving(dsn, env={"CREDITLEDGER_DECIMALS": "2"}) as (_, ledger):
        assert ledger.call(admin_pb.GetServerInfoRequest()).decimals == 2
    with serving(dsn) as (_, ledger):
        assert ledger.call(admin_pb.GetServerInfoRequest()).decimals == 2


def test_a_catalog_file_that_differs_is_a_new_version_and_the_same_one_is_not(
    dsn: str, tmp_path: Path
) -> None:
    text = CATALOG.read_text()
    reformatted, changed = tmp_path / "reformatted.toml", tmp_path / "changed.toml"
    reformatted.write_text("# A comment more.\n" + text)
    changed.write_text(text.replace("price = { flat = 5 }", "price = { flat = 6 }"))
    assert tomllib.loads(reformatted.read_text()) == tomllib.loads(text) != tomllib.loads(changed.read_text())

    versions, costs = [], []
    for file in (CATALOG, reformatted, changed, CATALOG):
        with started(*on(dsn, "--catalog", str(file))) as (_, ledger):
            versions.append(ledger.call(admin_pb.GetServerInfoRequest()).catalog_version)
            costs.append(ledger.deduct(ledger.open(credits_=9), "voice_creation").cost)

    assert (versions, costs) == ([1, 1, 2, 3], [5, 5, 6, 5])


def test_without_a_catalog_file_the_current_catalog_stays(dsn: str) -> None:
    with serving(dsn) as (_, ledger):
        catalog: resources_pb2.Catalog = ledger.call(admin_pb.GetCatalogRequest()).catalog
    with started(*on(dsn)) as (_, ledger):
        assert ledger.call(admin_pb.GetCatalogRequest()).catalog == catalog


def test_servers_that_start_at_once_on_a_new_database_make_one_ledger(dsn: str) -> None:
    options = on(dsn, "--catalog", str(CATALOG))
    with serve_command(*options) as one, serve_command(*options) as two, serve_command(*options) as three:
        infos = []
        for process in (one, two, three):
            with Ledger(ready_line(process).split()[1]) as ledger:
                infos.append(ledger.call(admin_pb.GetServerInfoRequest()))

    assert len({info.ledger_id for info in infos}) == 1
    assert [info.catalog_version for info in infos] == [1, 1, 1]
