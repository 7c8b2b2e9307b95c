"""grpc.health.v1: SERVING only while the server can serve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
import psycopg
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from ledger_calls import (
    METHODS,
    TIMEOUT,
    Ledger,
    code_of,
    deduction,
    example_catalog,
    failure_of,
    first_of,
    path_of,
    serving,
    unique,
)
from ledger_harness import Postgres, ServerProcess
from ledger_load import await_true, rows

SERVICES = ("", "creditledger.v1.CreditLedger", "creditledger.v1.LedgerAdmin")
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def check(ledger: Ledger, service: str) -> Any:
    """The answer to one check."""
    stub: Any = HealthStub(ledger.channel)
    return stub.Check(HealthCheckRequest(service=service), timeout=TIMEOUT)


def statuses(ledger: Ledger) -> list[int]:
    """The status of each service."""
    return [check(ledger, service).status for service in SERVICES]


def await_statuses(ledger: Ledger, status: int) -> None:
    await_true(lambda: statuses(ledger) == [status] * len(SERVICES))


@contextmanager
def database_away(postgres: Postgres, dsn: str) -> Iterator[None]:
    """A block in which nobody can connect to the database and nobody is connected."""
    name = urlsplit(dsn).path[1:]
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:

        def allow(word: str) -> None:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {word}")

        allow("false")
        try:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            yield
        finally:
            allow("true")


def test_every_service_is_serving(ledger: Ledger) -> None:
    await_statuses(ledger, SERVING)


def test_a_server_is_serving_as_soon_as_it_says_that_it_is_ready(dsn: str) -> None:
    for _ in range(3):
        with serving(dsn) as (_, ledger):
            assert statuses(ledger) == [SERVING] * 3


def test_an_unknown_service_is_not_found(ledger: Ledger) -> None:
    assert code_of(lambda: check(ledger, "creditledger.v1")) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x02\xff\xff", b"\x0a\xff\xff\xff\xff"])
def test_noise_is_a_bad_request(ledger: Ledger, data: bytes) -> None:
    for connect, method in ((ledger.channel.unary_unary, "Check"), (ledger.channel.unary_stream, "Watch")):
        call = connect(f"/grpc.health.v1.Health/{method}")
        with pytest.raises(grpc.RpcError) as error:
            list(call(data, timeout=TIMEOUT))
        assert failure_of(error.value).word == "INVALID_ARGUMENT / FIELD_INVALID"


def test_a_watcher_of_health_is_told_that_the_server_goes_away(server: ServerProcess) -> None:
    with Ledger(server.target) as ledger:
        await_statuses(ledger, SERVING)
        stub: Any = HealthStub(ledger.channel)
        watch = stub.Watch(HealthCheckRequest(), timeout=TIMEOUT)
        assert next(watch).status == SERVING

        server.process.terminate()

        assert next(watch).status == NOT_SERVING
        watch.cancel()
        assert server.wait() == 0


def test_without_its_database_the_server_is_not_serving_refuses_calls_and_recovers(
    postgres: Postgres, dsn: str
) -> None:
    with serving(dsn) as (_, ledger):
        account = ledger.open("account", level="pro", credits_=10)
        ledger.can_perform(account)
        sent = deduction(account)
        calls: list[Message] = [
            sent,
            pb.CanPerformRequest(account_id=account, operation="chat_refinement"),
            pb.GetBalanceRequest(account_id=account),
            pb.GetEntryRequest(account_id=account, revision=1),
            pb.ListEntriesRequest(account_id=account),
            pb.WatchUsageRequest(account_ids=[account]),
            pb.WatchUsageRequest(),
            admin_pb.OpenAccountRequest(request_id=unique(), account_id="other"),
            admin_pb.GetAccountRequest(account_id=account),
            admin_pb.ListAccountsRequest(),
            admin_pb.GrantCreditsRequest(request_id=unique(), account_id=account, amount=1),
            admin_pb.GetCatalogRequest(),
            admin_pb.UpdateCatalogRequest(request_id=unique(), catalog=example_catalog()),
            admin_pb.VerifyAccountRequest(account_id=account),
            admin_pb.GetServerInfoRequest(),
        ]
        with database_away(postgres, dsn):
            pending = [(call, in_background(ledger, call)) for call in calls]
            for call, answer in pending:
                failure = failure_of(error_of(answer))
                assert failure.word == "UNAVAILABLE / STORAGE_UNAVAILABLE", call
                assert failure.kinds == {"RetryInfo"}
            await_statuses(ledger, NOT_SERVING)
            [result] = ledger.call(pb.BatchDeductRequest(requests=[sent])).results
            assert (result.status.code, result.status.reason) == (14, 22)

        await_statuses(ledger, SERVING)
        response = ledger.call(sent)
        assert (response.replayed, response.entry.revision) == (False, 3)
        assert ledger.can_perform(account).revision == 3
        assert len(ledger.entries(account)) == 3


def in_background(ledger: Ledger, request: Message) -> Any:
    """A call under way: each waits for the database for a while before it gives up."""
    kind = type(request).__name__
    data = request.SerializeToString()
    if METHODS[kind].server_streaming:
        return ledger.channel.unary_stream(path_of(kind))(data, timeout=TIMEOUT)
    return ledger.channel.unary_unary(path_of(kind)).future(data, timeout=TIMEOUT)


def error_of(answer: Any) -> grpc.RpcError:
    """How a call under way ends."""
    error = answer.exception(timeout=TIMEOUT)
    assert isinstance(error, grpc.RpcError), answer
    return error


def test_once_it_is_serving_again_no_call_fails(postgres: Postgres, dsn: str) -> None:
    with serving(dsn) as (_, ledger):
        account = ledger.open("account", level="pro", credits_=10)
        ledger.can_perform(account)
        with database_away(postgres, dsn):
            await_statuses(ledger, NOT_SERVING)
        await_statuses(ledger, SERVING)

        codes = [
            code_of(call)
            for _ in range(5)
            for call in (
                lambda: ledger.can_perform(account),
                lambda: ledger.balance(account),
                lambda: ledger.entries(account),
                lambda: first_of(ledger.call(pb.WatchUsageRequest(account_ids=[account]))),
                lambda: ledger.deduct(account),
            )
        ]

        assert codes == [grpc.StatusCode.OK] * 25


def test_a_stream_resumes_behind_what_it_told_before_the_database_was_away(
    postgres: Postgres, dsn: str
) -> None:
    with serving(dsn, env={"CREDITLEDGER_HEARTBEAT_SECONDS": "0.2"}) as (_, ledger):
        account = ledger.open(credits_=10)
        request = pb.WatchUsageRequest(account_ids=[account])
        stream = ledger.call(request)
        request.cursor = next(stream).cursor
        with database_away(postgres, dsn):
            await_statuses(ledger, NOT_SERVING)
        await_statuses(ledger, SERVING)
        ledger.deduct(account)

        revision = None
        while revision is None:
            try:
                message = next(stream)
                revision = message.change.entry.revision if message.HasField("change") else None
            except grpc.RpcError as error:
                assert failure_of(error).word == "UNAVAILABLE / STORAGE_UNAVAILABLE"
                stream = ledger.call(request)

        assert revision == 3


def test_a_database_that_a_newer_server_migrates_is_no_longer_served(dsn: str) -> None:
    with serving(dsn) as (_, ledger):
        [(version,)] = rows(dsn, "SELECT version_num FROM alembic_version")
        rows(dsn, "UPDATE alembic_version SET version_num = 'zzzz'")
        await_statuses(ledger, NOT_SERVING)

        rows(dsn, "UPDATE alembic_version SET version_num = %s", version)
        await_statuses(ledger, SERVING)
