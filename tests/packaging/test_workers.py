"""``serve --workers``: several processes behind one port, which end and begin together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg
import pytest
from creditledger import CreditLedgerClient
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from ledger_calls import TIMEOUT, Ledger, deduction
from ledger_harness import CATALOG, ServerProcess, running_server
from ledger_load import await_true, rows
from scraped import Scrape

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads connections")

COMMAND = [sys.executable, "-m", "creditledger_server.cli", "serve"]
PATIENT = {"CREDITLEDGER_LOCK_TIMEOUT_MS": "60000", "CREDITLEDGER_STATEMENT_TIMEOUT_MS": "60000"}
CONNECTIONS = 40  # that chance gives all of them to one of two workers: 1 in 2^39

WAITING_FOR_A_LOCK: LiteralString = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)

# Runs in each interpreter before anything else does.
AT_START = """
import os, pathlib, sys
if sys.orig_argv[-1] == "worker":
    left = pathlib.Path(__file__).with_name("left")
    if number := int(left.read_text()):
        left.write_text(str(number - 1))
        os._exit(3)
"""


@pytest.fixture
def supervisor(dsn: str) -> Iterator[ServerProcess]:
    """Two workers and their supervisor on the test's database."""
    with running_server(dsn, "--workers", "2", env=PATIENT) as process:
        yield process


@pytest.fixture
def ledger(supervisor: ServerProcess) -> Iterator[Ledger]:
    """Calls to one of the workers."""
    with Ledger(supervisor.target) as calls:
        yield calls


def workers_of(supervisor: ServerProcess) -> list[psutil.Process]:
    return psutil.Process(supervisor.process.pid).children()


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def connections(target: str) -> Iterator[list[Ledger]]:
    """As many connections, each of which has made a call."""
    with ExitStack() as stack:
        calls = [stack.enter_context(Ledger(target)) for _ in range(CONNECTIONS)]
        for ledger in calls:
            ledger.call(admin_pb.GetServerInfoRequest())
        yield calls


def shares(supervisor: ServerProcess) -> Counter[int]:
    """How many connections of callers each worker has, by process id."""
    port = int(supervisor.target.rpartition(":")[2])
    return Counter(
        worker.pid
        for worker in workers_of(supervisor)
        for each in worker.net_connections("tcp")
        if each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port
    )


@contextmanager
def call_under_way(ledger: Ledger, dsn: str) -> Iterator[Callable[[], str]]:
    """A deduction that waits for its account's lock until the block ends; gives what waits for its outcome."""
    account = ledger.open(credits_=5)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM account WHERE account_id = %s FOR UPDATE", [account])
        call = ledger.channel.unary_unary("/creditledger.v1.CreditLedger/Deduct").future(
            deduction(account).SerializeToString(), timeout=TIMEOUT
        )
        await_true(lambda: rows(dsn, WAITING_FOR_A_LOCK) == [(1,)])

        def outcome() -> str:
            error = call.exception(timeout=TIMEOUT)
            return "OK" if error is None else str(error.code().name)

        yield outcome


def refusal(*options: str, env: dict[str, str] | None = None) -> str:
    """The last line of a server that cannot serve."""
    result = subprocess.run(
        [*COMMAND, *options], env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def broken_starts(folder: Path, count: int) -> dict[str, str]:
    """An environment in which the first workers to start end at once."""
    (folder / "sitecustomize.py").write_text(AT_START)
    (folder / "left").write_text(str(count))
    return {"PYTHONPATH": str(folder)}


def test_connections_are_spread_over_the_workers(supervisor: ServerProcess) -> None:
    pids = {worker.pid for worker in workers_of(supervisor)}
    with connections(supervisor.target):
        found = shares(supervisor)

    assert len(pids) == 2
    assert found.keys() == pids
    assert found.total() == CONNECTIONS


def test_what_one_worker_wrote_another_answers(supervisor: ServerProcess) -> None:
    with connections(supervisor.target) as calls:
        account = calls[0].open(credits_=CONNECTIONS)
        revisions = [ledger.deduct(account).entry.revision for ledger in calls]

    assert revisions == list(range(3, CONNECTIONS + 3))


def test_calls_go_on_when_a_worker_is_killed_and_another_takes_its_place(supervisor: ServerProcess) -> None:
    killed, other = workers_of(supervisor)
    with CreditLedgerClient(supervisor.target) as ledger:
        ledger.open_account("user-1", level="pro")
        ledger.grant_credits("user-1", 100)
        killed.kill()
        for _ in range(20):
            ledger.deduct("user-1", "chat_refinement")

        await_true(lambda: len(workers_of(supervisor)) == 2)
        await_true(lambda: _both_serve(supervisor))
        assert killed.pid not in {worker.pid for worker in workers_of(supervisor)}
        assert other.pid in {worker.pid for worker in workers_of(supervisor)}
        assert ledger.get_balance("user-1").balance.available == 80
    assert supervisor.stop() == 0
    assert "ended with status -9, starts again" in supervisor.log()


def _both_serve(supervisor: ServerProcess) -> bool:
    with connections(supervisor.target):
        return len(shares(supervisor)) == 2


def test_a_restarted_worker_keeps_a_catalog_that_was_changed_meanwhile(supervisor: ServerProcess) -> None:
    with CreditLedgerClient(supervisor.target) as ledger:
        catalog = ledger.get_catalog().catalog
        catalog.operations[0].display_name += ", changed"
        assert ledger.update_catalog(catalog).catalog.version == 2
        workers_of(supervisor)[0].kill()
        await_true(lambda: "starts again" in supervisor.log() and len(workers_of(supervisor)) == 2)
        await_true(lambda: _both_serve(supervisor))
    with connections(supervisor.target) as calls:
        infos = [each.call(admin_pb.GetServerInfoRequest()) for each in calls]

    assert {info.catalog_version for info in infos} == {2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_calls_under_way_finish_and_ends_all(
    supervisor: ServerProcess, ledger: Ledger, dsn: str, number: signal.Signals
) -> None:
    workers = workers_of(supervisor)
    with call_under_way(ledger, dsn) as outcome:
        supervisor.process.send_signal(number)
    assert outcome() == "OK"
    assert supervisor.wait() == 0
    assert not any(runs(worker) for worker in workers)


def test_a_second_signal_ends_all_at_once(supervisor: ServerProcess, ledger: Ledger, dsn: str) -> None:
    workers = workers_of(supervisor)
    with call_under_way(ledger, dsn) as outcome:
        supervisor.process.terminate()
        await_true(lambda: not _listens(supervisor))
        supervisor.process.terminate()
        assert outcome() == "UNAVAILABLE"  # while its account is still locked
        assert supervisor.wait() == 1
    assert "instead of draining" in supervisor.log().splitlines()[-1]
    assert not any(runs(worker) for worker in workers)


def _listens(supervisor: ServerProcess) -> bool:
    listening = False
    for worker in workers_of(supervisor):
        with suppress(psutil.NoSuchProcess):  # it may end while it is looked at
            listening |= any(each.status == psutil.CONN_LISTEN for each in worker.net_connections("tcp"))
    return listening


def test_kill_9_of_the_supervisor_leaves_no_worker_behind(
    supervisor: ServerProcess, ledger: Ledger, dsn: str
) -> None:
    workers = workers_of(supervisor)
    with call_under_way(ledger, dsn) as outcome:
        supervisor.kill()
        await_true(lambda: sum(runs(worker) for worker in workers) == 1)
    assert outcome() == "OK"  # they have drained
    await_true(lambda: not any(runs(worker) for worker in workers))


def test_a_port_with_workers_is_nobody_elses(supervisor: ServerProcess, dsn: str) -> None:
    options = ("--database-url", dsn, "--listen", supervisor.target)

    for more in ((), ("--workers", "2")):
        assert supervisor.target in refusal(*options, *more)


def test_workers_do_not_join_a_server_on_its_port(server: ServerProcess, dsn: str) -> None:
    assert server.target in refusal("--database-url", dsn, "--listen", server.target, "--workers", "2")
    assert not psutil.Process(server.process.pid).children()  # one process, without a supervisor


def test_a_worker_that_fails_to_start_is_started_again(dsn: str, tmp_path: Path) -> None:
    with running_server(dsn, "--workers", "2", env=broken_starts(tmp_path, 3)) as supervisor:
        assert len(workers_of(supervisor)) == 2
        assert supervisor.log().count("ended with status 3, starts again") == 3


def test_workers_that_never_start_end_the_whole(dsn: str, tmp_path: Path) -> None:
    options = ("--database-url", dsn, "--listen", "127.0.0.1:0", "--workers", "2")

    line = refusal(*options, env=broken_starts(tmp_path, 100))

    assert line.startswith("error: worker ")
    assert line.endswith(" ended 5 times before it was ready, last with status 3")


def test_a_mistake_is_told_once_and_not_by_every_worker(dsn: str, tmp_path: Path) -> None:
    for options in (
        ("--listen", "192.0.2.1:0", "--insecure"),
        ("--database-url", "postgresql://u@127.0.0.1:1/x"),
    ):
        result = subprocess.run(
            [*COMMAND, "--database-url", dsn, "--workers", "2", *options],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        (line,) = result.stderr.splitlines()
        assert (result.returncode, line.startswith("error: ")) == (1, True)


def test_the_embedded_postgres_outlives_the_workers_and_ends_with_them(tmp_path: Path) -> None:
    options = ["--embedded", str(tmp_path), "--listen", "127.0.0.1:0", "--migrate", "--workers", "2"]
    command = [*COMMAND, *options, "--catalog", str(CATALOG)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    address = process.stdout.readline().split()[1]
    with CreditLedgerClient(address) as ledger:
        ledger.open_account("user-1", level="free")
    process.terminate()
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()


def test_each_worker_has_metrics_of_its_own_and_keeps_its_port(dsn: str) -> None:
    first = _two_free_ports()
    with running_server(
        dsn, "--workers", "2", "--metrics-listen", f"127.0.0.1:{first}", env=PATIENT
    ) as supervisor:
        assert supervisor.metrics == [f"http://127.0.0.1:{port}/metrics" for port in (first, first + 1)]
        with connections(supervisor.target):
            counted = [_calls_of(url) for url in supervisor.metrics]
        killed = workers_of(supervisor)[0]
        killed.kill()
        await_true(lambda: "starts again" in supervisor.log() and _both_serve(supervisor))
        again = [_calls_of(url) for url in supervisor.metrics]

    assert sum(counted) == CONNECTIONS
    assert all(counted) and all(again)


def _calls_of(url: str) -> float:
    return Scrape(url).value("rpc_duration_seconds_count", code="OK")


def _two_free_ports() -> int:
    """The first of two neighbouring ports that are free."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            with suppress(OSError, OverflowError):
                two.bind(("127.0.0.1", port + 1))
                return port


def test_the_supervisor_loads_no_grpc() -> None:
    # It starts processes: what grpc's threads hold at that moment must not concern it.
    program = "import sys, creditledger_server.workers; print('grpc' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
