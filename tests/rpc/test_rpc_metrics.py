"""/metrics: what is told moves as calls are made, and tells of no account."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString
from urllib.request import urlopen

import grpc
import psutil
import psycopg
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger_server.domain.refusal import Reason
from google.protobuf.duration_pb2 import Duration
from ledger_calls import TIMEOUT, Ledger, code_of, deduction, path_of, serve_command, serving, unique
from ledger_harness import ServerProcess
from ledger_load import await_true, rows
from scraped import Scrape, scrape

SERVED = ("--metrics-listen", "127.0.0.1:0")
PATIENT = {
    "CREDITLEDGER_LOCK_TIMEOUT_MS": "60000",
    "CREDITLEDGER_STATEMENT_TIMEOUT_MS": "60000",
    "CREDITLEDGER_LANES": "1",
}
LABELS = {"code", "le", "method", "outcome", "pool", "queue", "reason"}

DEDUCT = "creditledger.v1.CreditLedger/Deduct"
WATCH = "creditledger.v1.CreditLedger/WatchUsage"

WAITING_FOR_A_LOCK: LiteralString = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)

Served = tuple[ServerProcess, Ledger]


@pytest.fixture
def served(dsn: str) -> Iterator[Served]:
    """A server of one patient lane that tells metrics, and calls to it."""
    with serving(dsn, *SERVED, env=PATIENT) as both:
        yield both


@contextmanager
def locked(dsn: str, account: str) -> Iterator[None]:
    """Holds an account's lock as another server would."""
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM account WHERE account_id = %s FOR UPDATE", [account])
        yield


def start(ledger: Ledger, request: Any) -> Any:
    """A call under way."""
    path = path_of(type(request).__name__)
    return ledger.channel.unary_unary(path).future(request.SerializeToString(), timeout=TIMEOUT)


def lock_waiters(dsn: str, count: int) -> None:
    await_true(lambda: rows(dsn, WAITING_FOR_A_LOCK) == [(count,)])


def watch(ledger: Ledger, account: str, **fields: Any) -> Any:
    """A stream that has told its first message, and that."""
    stream = ledger.call(pb.WatchUsageRequest(account_ids=[account], **fields), timeout=TIMEOUT)
    return stream, next(stream)


def watch_ends(server: ServerProcess) -> dict[tuple[str, ...], float]:
    return scrape(server).told("streams_ended_total", "method", "reason")


def refusals(told: Scrape) -> dict[str, float]:
    return {reason: count for (reason,), count in told.told("refusals_total", "reason").items() if count}


# ── Where it is served ────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_served_unless_it_is_set(dsn: str) -> None:
    with serving(dsn) as (server, _):
        ports = [each.laddr.port for each in _listening(server)]

    assert server.metrics == []
    assert ports == [int(server.target.rpartition(":")[2])]


def _listening(server: ServerProcess) -> list[Any]:
    connections = psutil.Process(server.process.pid).net_connections("tcp")
    return [each for each in connections if each.status == psutil.CONN_LISTEN]


def test_the_ready_line_tells_the_port_that_was_taken(served: Served) -> None:
    server, _ = served
    [url] = server.metrics

    with urlopen(url, timeout=TIMEOUT) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert b"creditledger_serving 1.0\n" in answer.read()
    assert ":0/" not in url


def test_the_setting_may_come_from_the_environment(dsn: str) -> None:
    with serving(dsn, env={"CREDITLEDGER_METRICS_LISTEN": "localhost:0"}) as (server, _):
        assert scrape(server).value("serving") == 1


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:9464"])
def test_an_address_that_others_reach_needs_insecure(dsn: str, address: str) -> None:
    line = _refusal("--database-url", dsn, "--metrics-listen", address)

    assert address in line
    assert "--insecure" in line


def test_an_address_that_others_reach_is_served_with_insecure(dsn: str) -> None:
    with serving(dsn, "--metrics-listen", "0.0.0.0:0", "--insecure") as (server, _):
        [url] = server.metrics
        assert Scrape(url.replace("0.0.0.0", "127.0.0.1")).value("serving") == 1


def test_a_port_that_is_taken_is_told_in_one_line(served: Served, dsn: str) -> None:
    server, _ = served
    address = server.metrics[0].split("/")[2]

    for more in ((), ("--workers", "2")):
        line = _refusal("--database-url", dsn, "--listen", "127.0.0.1:0", "--metrics-listen", address, *more)
        assert address in line


def _refusal(*options: str) -> str:
    """The one line with which a server that cannot start tells so."""
    with serve_command(*options) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (1, "")
    [line] = errors.splitlines()
    assert line.startswith("error: ")
    return line


def test_metrics_are_told_until_the_server_has_drained(served: Served, dsn: str) -> None:
    server, ledger = served
    account = ledger.open(credits_=1)
    stream, _ = watch(ledger, account)
    with locked(dsn, account):
        call = start(ledger, deduction(account))
        lock_waiters(dsn, 1)
        server.process.terminate()
        assert code_of(lambda: list(stream)) is grpc.StatusCode.UNAVAILABLE
        await_true(lambda: watch_ends(server) == {(WATCH, "SHUTTING_DOWN"): 1})
        assert scrape(server).value("serving") == 0
    assert call.exception(timeout=TIMEOUT) is None
    assert server.wait() == 0


# ── Calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_calls_are_counted_by_method_code_and_reason(served: Served) -> None:
    server, ledger = served
    account = ledger.open(credits_=2)
    before = time.monotonic()
    ledger.deduct(account)
    ledger.deduct(account)
    took = time.monotonic() - before
    ledger.refused_deduct(account)
    ledger.refused_deduct(unique("nobody"))
    ledger.refused_deduct("")
    ledger.can_perform(account)
    told = scrape(server)

    assert told.told("rpc_duration_seconds_count", "method", "code") == {
        ("creditledger.v1.LedgerAdmin/OpenAccount", "OK"): 1,
        ("creditledger.v1.LedgerAdmin/GrantCredits", "OK"): 1,
        ("creditledger.v1.CreditLedger/CanPerform", "OK"): 1,
        (DEDUCT, "OK"): 2,
        (DEDUCT, "FAILED_PRECONDITION"): 1,
        (DEDUCT, "NOT_FOUND"): 1,
        (DEDUCT, "INVALID_ARGUMENT"): 1,
    }
    assert refusals(told) == {"INSUFFICIENT_CREDITS": 1, "ACCOUNT_NOT_FOUND": 1, "FIELD_INVALID": 1}
    assert 0 < told.value("rpc_duration_seconds_sum", method=DEDUCT, code="OK") < took
    assert told.value("rpc_duration_seconds_bucket", method=DEDUCT, code="OK", le="+Inf") == 2


def test_every_reason_is_told_before_it_is_given(served: Served) -> None:
    server, _ = served

    assert scrape(server).told("refusals_total", "reason") == {(reason,): 0 for reason in Reason}


def test_refused_items_of_batches_and_streams_count_like_calls(served: Served) -> None:
    server, ledger = served
    account = ledger.open(credits_=1)
    items = [deduction(account), deduction(account), deduction(unique("nobody")), deduction("")]
    ledger.call(pb.BatchDeductRequest(requests=items))
    ledger.call(pb.BatchDeductRequest(requests=[deduction("")]))
    ledger.refusal(pb.BatchDeductRequest())
    ledger.refusal(pb.WatchUsageRequest(cursor="none"))

    assert refusals(scrape(server)) == {
        "INSUFFICIENT_CREDITS": 1,
        "ACCOUNT_NOT_FOUND": 1,
        "FIELD_INVALID": 3,
        "CURSOR_INVALID": 1,
    }


def test_a_call_whose_caller_leaves_is_cancelled(served: Served, dsn: str) -> None:
    server, ledger = served
    account = ledger.open(credits_=1)
    with locked(dsn, account):
        call = start(ledger, deduction(account))
        lock_waiters(dsn, 1)
        call.cancel()
        await_true(lambda: scrape(server).value("rpc_duration_seconds_count", code="CANCELLED") == 1)

    assert scrape(server).value("rpc_duration_seconds_count", method=DEDUCT) == 1


def test_health_reflection_and_made_up_methods_are_not_counted(served: Served) -> None:
    server, ledger = served
    for path, code in (
        ("/grpc.health.v1.Health/Check", grpc.StatusCode.OK),
        ("/creditledger.v1.CreditLedger/MadeUp", grpc.StatusCode.UNIMPLEMENTED),
        ("/made/up", grpc.StatusCode.UNIMPLEMENTED),
    ):
        assert _code(ledger, path) is code
    told = scrape(server)

    assert not [each for each in told.samples if "method" in each.labels]
    assert "MadeUp" not in told.text


def _code(ledger: Ledger, path: str) -> grpc.StatusCode:
    return code_of(lambda: ledger.channel.unary_unary(path)(b"", timeout=TIMEOUT))


# ── Writes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_deductions_are_counted_by_their_outcome_alone_and_in_batches(served: Served) -> None:
    server, ledger = served
    account = ledger.open(credits_=10)
    ledger.deduct(account, request_id="first")
    items = [
        deduction(account, request_id="first"),
        deduction(account, request_id="second"),
        deduction(account, request_id="third", quantity=100),
        deduction(account, "nothing"),
        deduction(""),
    ]
    ledger.call(pb.BatchDeductRequest(requests=items))
    ledger.deduct(account, request_id="second")
    ledger.refused_deduct(account, quantity=100)
    ledger.call(pb.ReserveRequest(request_id="reserve", account_id=account, operation="chat_refinement"))
    told = scrape(server).told("deductions_total", "outcome", "reason")

    assert {how: count for how, count in told.items() if count} == {
        ("accepted", ""): 2,
        ("replayed", ""): 2,
        ("refused", "INSUFFICIENT_CREDITS"): 2,
        ("refused", "OPERATION_UNKNOWN"): 1,
        ("refused", "FIELD_INVALID"): 1,
    }


def test_the_size_of_a_round_is_how_many_requests_it_took(served: Served) -> None:
    server, ledger = served
    account = ledger.open(credits_=100)
    before = scrape(server)
    ledger.call(pb.BatchDeductRequest(requests=[deduction(account) for _ in range(70)]))
    after = scrape(server)

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert (grown("round_size_count"), grown("round_size_sum")) == (1, 70)
    assert (grown("round_size_bucket", le="50.0"), grown("round_size_bucket", le="100.0")) == (0, 1)
    for name in ("lock_wait_seconds", "load_seconds", "commit_seconds"):
        assert grown(f"{name}_count") == 1
        assert grown(f"{name}_sum") > 0


def test_a_transaction_that_only_refuses_commits_nothing(served: Served) -> None:
    server, ledger = served
    account = ledger.open()
    before = scrape(server)
    ledger.refused_deduct(account)
    after = scrape(server)

    assert after.value("load_seconds_count") == before.value("load_seconds_count") + 1
    assert after.value("commit_seconds_count") == before.value("commit_seconds_count")


def test_waiting_for_a_lock_and_for_a_round_is_seen(served: Served, dsn: str) -> None:
    server, ledger = served
    account = ledger.open(credits_=9)
    before = scrape(server)
    with locked(dsn, account):
        first = start(ledger, deduction(account))
        lock_waiters(dsn, 1)
        begin = time.monotonic()
        others = [start(ledger, deduction(account)) for _ in range(3)]
        await_true(lambda: scrape(server).told("queue_depth", "queue") == {("writes",): 3, ("checks",): 0})
        waited = time.monotonic() - begin
    for call in (first, *others):
        assert call.exception(timeout=TIMEOUT) is None
    after = scrape(server)

    lock_wait = after.value("lock_wait_seconds_sum") - before.value("lock_wait_seconds_sum")
    load = after.value("load_seconds_sum") - before.value("load_seconds_sum")
    assert waited < lock_wait < load
    assert after.value("queue_depth") == 0


def test_the_use_of_the_pool_is_seen(served: Served, dsn: str) -> None:
    server, ledger = served
    account = ledger.open(credits_=9)
    with psycopg.connect(dsn) as other:
        other.execute("LOCK TABLE account")
        calls = [start(ledger, pb.GetBalanceRequest(account_id=account)) for _ in range(6)]
        await_true(lambda: scrape(server).value("pool_waiting", pool="calls") == 2)
        told = scrape(server)
    for call in calls:
        call.exception(timeout=TIMEOUT)

    assert told.value("pool_in_use", pool="calls") == told.value("pool_size", pool="calls") == 4
    assert told.value("pool_size", pool="streams") == 4
    await_true(lambda: scrape(server).value("pool_in_use", pool="calls") == 0)


# ── Watching ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_streams_are_counted_while_they_are_open_and_how_they_end(served: Served) -> None:
    server, ledger = served
    account = ledger.open(credits_=9)
    streams = [watch(ledger, account)[0] for _ in range(3)]
    assert scrape(server).told("streams", "method") == {(WATCH,): 3}
    streams.pop().cancel()
    await_true(lambda: scrape(server).told("streams", "method") == {(WATCH,): 2})
    ledger.refusal(pb.WatchUsageRequest(account_ids=[account], cursor="none"))
    ledger.refusal(pb.WatchUsageRequest(account_ids=[unique("nobody")]))

    assert watch_ends(server) == {
        (WATCH, "CANCELLED"): 1,
        (WATCH, "CURSOR_INVALID"): 1,
        (WATCH, "ACCOUNT_NOT_FOUND"): 1,
    }
    assert scrape(server).value("streams") == 2


def test_a_client_that_vanishes_ends_its_streams(served: Served) -> None:
    server, ledger = served
    account = ledger.open(credits_=9)
    with Ledger(server.target) as vanishing:
        watch(vanishing, account)
    await_true(lambda: watch_ends(server) == {(WATCH, "CANCELLED"): 1})


def test_the_lag_is_that_of_every_entry_on_every_stream(served: Served) -> None:
    server, ledger = served
    account = ledger.open(credits_=9)
    streams = [watch(ledger, account)[0] for _ in range(2)]
    begin = time.time()
    for _ in range(3):
        ledger.deduct(account)
    for stream in streams:
        for _ in range(3):
            next(stream)
    took = time.time() - begin
    told = scrape(server)

    assert told.value("watch_lag_seconds_count") == 6
    assert 0 < told.value("watch_lag_seconds_sum") < 6 * took


def test_what_a_resumed_stream_missed_is_no_lag(served: Served) -> None:
    server, ledger = served
    account = ledger.open(credits_=9)
    stream, first = watch(ledger, account)
    stream.cancel()
    ledger.deduct(account)
    resumed, missed = watch(ledger, account, cursor=first.cursor)
    assert missed.HasField("change")
    assert next(resumed).HasField("caught_up")
    assert scrape(server).value("watch_lag_seconds_count") == 0
    ledger.deduct(account)
    assert next(resumed).HasField("change")

    assert scrape(server).value("watch_lag_seconds_count") == 1


def test_what_summaries_tell_is_coalesced(served: Served) -> None:
    server, ledger = served
    account = ledger.open(credits_=99)
    stream, _ = watch(ledger, account, min_interval=Duration(nanos=100_000_000))
    for _ in range(5):
        ledger.deduct(account)
    changes = 0
    for message in stream:
        changes += message.summary.changes
        if changes == 5:
            break

    assert scrape(server).value("watch_coalesced_total") == 5


# ── What it must not tell ─────────────────────────────────────────────────────────────────────────────────────────


def test_no_label_tells_an_account_a_level_or_an_operation(served: Served) -> None:
    server, ledger = served
    account = ledger.open("secret-account", level="pro", credits_=9)
    ledger.deduct(account, "voice_creation", request_id="secret-request")
    ledger.can_perform(account, "video_processing")
    ledger.refused_deduct(account, "secret_operation")
    ledger.refused_deduct("secret-nobody")
    ledger.call(admin_pb.GetAccountRequest(account_id=account))
    stream, _ = watch(ledger, account)
    told = scrape(server)
    stream.cancel()

    labels = {item for each in told.samples for item in each.labels.items()}
    assert {name for name, _ in labels} == LABELS
    assert not {value for _, value in labels} & {"free", "pro"}
    for word in ("secret", "voice_creation", "chat_refinement", "video_processing"):
        assert word not in told.text


def test_a_process_tells_of_itself(served: Served) -> None:
    server, _ = served
    process = psutil.Process(server.process.pid)
    told = scrape(server)

    assert told.value("process_start_time_seconds") == pytest.approx(process.create_time(), abs=2)
    assert 0 < told.value("process_cpu_seconds_total") <= sum(process.cpu_times()[:2])
    assert told.value("process_resident_memory_bytes") > 0
