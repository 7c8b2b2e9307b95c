"""The table of errors (contract §7): code, reason, metadata and detail of each, and which comes first.

What holds of every error, such as its one ErrorInfo and that it tells no internals, ``failure_of`` asserts.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import (
    FAILED,
    NOT_SERVED,
    SERVICES,
    Failure,
    Ledger,
    code_of,
    deduction,
    example_catalog,
    path_of,
    ready_line,
    serve_command,
    serving,
    unique,
)
from ledger_load import rows

SERVED_ON_ACCOUNTS: list[type[Message]] = [
    pb.CanPerformRequest, pb.DeductRequest, pb.GetBalanceRequest, pb.GetEntryRequest, pb.ListEntriesRequest,
    pb.SummarizeUsageRequest, pb.WatchUsageRequest, admin_pb.GetAccountRequest, admin_pb.GrantCreditsRequest,
    admin_pb.UpdateAccountRequest, admin_pb.VerifyAccountRequest, pb.ReserveRequest, pb.CommitReservationRequest,
    pb.ReleaseReservationRequest, pb.ExtendReservationRequest, pb.RefundRequest, pb.GetReservationRequest,
    pb.ListReservationsRequest, admin_pb.VoidGrantRequest, admin_pb.ListGrantsRequest, admin_pb.AdjustBalanceRequest,
    admin_pb.PurchasePackageRequest,
]  # fmt: skip
MUTATIONS = (
    pb.DeductRequest, pb.ReserveRequest, pb.CommitReservationRequest, pb.ReleaseReservationRequest,
    pb.ExtendReservationRequest, pb.RefundRequest, admin_pb.GrantCreditsRequest, admin_pb.UpdateAccountRequest,
    admin_pb.VoidGrantRequest, admin_pb.AdjustBalanceRequest, admin_pb.PurchasePackageRequest,
)  # fmt: skip


def valid(kind: type[Message], account_id: str) -> Any:
    """A valid request of a type about an account."""
    names = {field.name for field in kind.DESCRIPTOR.fields}
    values: dict[str, Any] = {
        "account_id": account_id, "account_ids": [account_id], "request_id": unique(), "operation": "chat_refinement",
        "amount": 1, "reservation_id": "r9", "grant_id": "g9", "reason": "why", "package_id": "starter",
        "payment_reference": unique("payment"),
    }  # fmt: skip
    request: Any = kind(**{name: value for name, value in values.items() if name in names})
    if kind in (pb.GetEntryRequest, pb.RefundRequest):
        request.revision = 1
    if kind is pb.ExtendReservationRequest:
        request.ttl.FromSeconds(60)
    if kind is admin_pb.UpdateAccountRequest:
        request.update_mask.paths.append("labels")
    return request


def assert_decided_now(failure: Failure, revision: int) -> None:
    told, time = failure.decided
    assert told == revision
    assert abs(datetime.now(UTC) - time) < timedelta(hours=1)


@pytest.mark.parametrize("kind", SERVED_ON_ACCOUNTS, ids=lambda kind: kind.__name__)
def test_an_unknown_account(ledger: Ledger, nobody: str, kind: type[Message]) -> None:
    failure = ledger.refusal(valid(kind, nobody))

    assert failure.word == "NOT_FOUND / ACCOUNT_NOT_FOUND"
    assert failure.metadata["accountId"] == nobody
    assert failure.kinds == {"ResourceInfo"}
    resource = failure.detail("ResourceInfo")
    assert (resource.resource_type, resource.resource_name) == ("account", nobody)


@pytest.mark.parametrize(
    "kind",
    [pb.CanPerformRequest, *MUTATIONS, pb.GetBalanceRequest, pb.SummarizeUsageRequest],
    ids=lambda kind: kind.__name__,
)
def test_an_unknown_account_is_decided_at_revision_0(
    ledger: Ledger, nobody: str, kind: type[Message]
) -> None:
    assert_decided_now(ledger.refusal(valid(kind, nobody)), 0)


@pytest.mark.parametrize("kind", [pb.CanPerformRequest, pb.DeductRequest], ids=lambda kind: kind.__name__)
def test_an_unknown_operation(ledger: Ledger, account: str, kind: type[Message]) -> None:
    request = valid(kind, account)
    request.operation = "no_such_operation"

    failure = ledger.refusal(request)

    assert failure.word == "INVALID_ARGUMENT / OPERATION_UNKNOWN"
    assert failure.metadata["operation"] == "no_such_operation"
    assert (failure.kinds, list(failure.fields)) == ({"BadRequest"}, ["operation"])
    assert_decided_now(failure, 2)


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (pb.CanPerformRequest, "account_level"),
        (pb.DeductRequest, "account_level"),
        (admin_pb.OpenAccountRequest, "level"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_unknown_level(ledger: Ledger, nobody: str, kind: type[Message], field: str) -> None:
    request = valid(kind, nobody)
    setattr(request, field, "no_such_level")

    failure = ledger.refusal(request)

    assert failure.word == "INVALID_ARGUMENT / LEVEL_UNKNOWN"
    assert failure.metadata["level"] == "no_such_level"
    assert (failure.kinds, list(failure.fields)) == ({"BadRequest"}, [field])
    assert ledger.revision(nobody) == 0


def test_not_enough_credits(ledger: Ledger) -> None:
    account = ledger.open(credits_=3)

    failure = ledger.refused_deduct(account, "voice_creation", quantity=2)

    assert failure.word == "FAILED_PRECONDITION / INSUFFICIENT_CREDITS"
    assert failure.metadata.items() >= {"required": "10", "available": "3", "shortfall": "7"}.items()
    assert failure.kinds == {"PreconditionFailure"}
    [violation] = failure.detail("PreconditionFailure").violations
    assert violation.type == "INSUFFICIENT_CREDITS" and violation.subject and violation.description
    assert_decided_now(failure, 2)


def test_a_limit_used_up(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=10)
    [state] = ledger.deduct(account, "voice_creation").limits

    failure = ledger.refused_deduct(account, "voice_creation")

    assert failure.word == "RESOURCE_EXHAUSTED / LIMIT_EXCEEDED"
    told = {"operation": "voice_creation", "period": "MONTH", "limit": "1", "used": "1"}
    assert failure.metadata.items() >= told.items()
    assert failure.kinds == {"QuotaFailure", "RetryInfo"}
    [violation] = failure.detail("QuotaFailure").violations
    assert violation.subject and violation.description
    _, decide_time = failure.decided
    reset = datetime.fromisoformat(failure.metadata["resetTime"])
    assert reset == state.reset_time.ToDatetime(UTC)
    delay = failure.detail("RetryInfo").retry_delay.ToTimedelta()
    assert abs(decide_time + delay - reset) < timedelta(milliseconds=1)
    assert_decided_now(failure, 3)


def test_a_limit_for_life_tells_no_time_to_retry(dsn: str) -> None:
    catalog = example_catalog()
    catalog.levels[1].limits.add(operation="chat_refinement", period=resources_pb2.PERIOD_LIFETIME, limit=0)
    with serving(dsn) as (_, ledger):
        ledger.call(admin_pb.UpdateCatalogRequest(request_id="u", catalog=catalog))
        account = ledger.open(level="pro", credits_=10)

        failure = ledger.refused_deduct(account)

    assert failure.word == "RESOURCE_EXHAUSTED / LIMIT_EXCEEDED"
    assert failure.metadata.items() >= {"period": "LIFETIME", "limit": "0", "used": "0"}.items()
    assert failure.kinds == {"QuotaFailure"}


@pytest.mark.parametrize(("state", "word"), [(2, "FROZEN"), (3, "CLOSED")])
def test_a_frozen_or_closed_account_answers_reads_and_refuses_spending(
    ledger: Ledger, shared_dsn: str, account: str, state: int, word: str
) -> None:
    rows(shared_dsn, "UPDATE account SET state = %s WHERE account_id = %s", state, account)

    for request in (deduction(account), deduction(account, usage=FAILED)):
        failure = ledger.refusal(request)
        assert failure.word == f"FAILED_PRECONDITION / ACCOUNT_{word}"
        assert_decided_now(failure, 2)
    assert resources_pb2.AccountState.Name(ledger.balance(account).account.state).endswith(word)
    assert len(ledger.entries(account)) == 2


def test_a_frozen_account_takes_grants_and_a_closed_one_does_not(ledger: Ledger, shared_dsn: str) -> None:
    frozen, closed = ledger.open(), ledger.open()
    rows(shared_dsn, "UPDATE account SET state = 2 WHERE account_id = %s", frozen)
    rows(shared_dsn, "UPDATE account SET state = 3 WHERE account_id = %s", closed)

    assert ledger.grant(frozen, 1).balance.available == 1
    failure = ledger.refusal(valid(admin_pb.GrantCreditsRequest, closed))
    assert failure.word == "FAILED_PRECONDITION / ACCOUNT_CLOSED"


def test_a_reused_request_id(ledger: Ledger, account: str) -> None:
    request = deduction(account)
    ledger.call(request)
    request.quantity = 2

    failure = ledger.refusal(request)

    assert failure.word == "ALREADY_EXISTS / REQUEST_ID_REUSED"
    assert failure.metadata["requestId"] == request.request_id
    assert_decided_now(failure, 3)


def test_an_account_that_is_open_already(ledger: Ledger, account: str) -> None:
    failure = ledger.refusal(admin_pb.OpenAccountRequest(request_id=unique(), account_id=account))

    assert failure.word == "ALREADY_EXISTS / ACCOUNT_EXISTS"
    assert failure.metadata["accountId"] == account
    assert ledger.revision(account) == 2


@pytest.mark.parametrize(
    ("key", "told"),
    [({"revision": 3}, {"revision": "3"}), ({"request_id": "no-such"}, {"requestId": "no-such"})],
    ids=["revision", "request_id"],
)
def test_an_unknown_entry(ledger: Ledger, account: str, key: dict[str, Any], told: dict[str, str]) -> None:
    failure = ledger.refusal(pb.GetEntryRequest(account_id=account, **key))

    assert failure.word == "NOT_FOUND / ENTRY_NOT_FOUND"
    assert failure.metadata.items() >= {"accountId": account, **told}.items()
    assert "" not in failure.metadata.values()
    assert failure.detail("ResourceInfo").resource_type == "entry"


@pytest.mark.parametrize("version", [0, 99, -1])
def test_an_unknown_catalog(ledger: Ledger, version: int) -> None:
    failure = ledger.refusal(admin_pb.GetCatalogRequest(version=version))

    assert failure.word == "NOT_FOUND / CATALOG_NOT_FOUND"
    assert failure.metadata["version"] == str(version)
    assert failure.detail("ResourceInfo").resource_type == "catalog"
    assert "no catalog yet" not in failure.message


def test_another_version_of_the_catalog(ledger: Ledger) -> None:
    request = admin_pb.UpdateCatalogRequest(
        request_id=unique(), catalog=example_catalog(), expected_version=9
    )

    failure = ledger.refusal(request)

    assert failure.word == "ABORTED / VERSION_MISMATCH"
    assert failure.metadata.items() >= {"expected": "9", "current": "1"}.items()
    assert ledger.call(admin_pb.GetServerInfoRequest()).catalog_version == 1


def test_a_lock_that_others_hold_too_long(ledger: Ledger, shared_dsn: str, account: str) -> None:
    request = deduction(account)
    with psycopg.connect(shared_dsn) as other:
        other.execute("SELECT FROM account WHERE account_id = %s FOR UPDATE", [account])

        failure = ledger.refusal(request)

    assert failure.word == "ABORTED / CONTENTION"
    assert failure.kinds == {"RetryInfo"}
    assert ledger.revision(account) == 2
    assert ledger.call(request).replayed is False


def test_more_waiting_than_the_server_takes_on(dsn: str) -> None:
    with serving(dsn, env={"CREDITLEDGER_QUEUE_LIMIT": "1"}) as (_, ledger):
        account = ledger.open(credits_=9)
        requests = [deduction(account), deduction(account)]

        failure = ledger.refusal(pb.BatchDeductRequest(requests=requests))

        assert failure.word == "RESOURCE_EXHAUSTED / SERVER_OVERLOADED"
        assert failure.kinds == {"RetryInfo"}
        assert ledger.revision(account) == 2
        assert ledger.call(requests[0]).replayed is False


def test_a_deadline_that_passes_while_the_call_waits_drops_it_untried(
    ledger: Ledger, shared_dsn: str, account: str
) -> None:
    with psycopg.connect(shared_dsn) as other:
        other.execute("SELECT FROM account WHERE account_id = %s FOR UPDATE", [account])
        code = code_of(lambda: ledger.call(deduction(account), timeout=0.3))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED

    ledger.deduct(account)
    assert ledger.revision(account) == 3


def test_every_method_is_served_or_known_not_to_be() -> None:
    served = {path_of(kind.__name__).rpartition("/")[2] for kind in SERVED_ON_ACCOUNTS} | {
        "BatchDeduct", "OpenAccount", "ListAccounts", "GetCatalog", "UpdateCatalog", "GetServerInfo", "ListPackages",
    }  # fmt: skip

    assert served | NOT_SERVED == {method.name for service in SERVICES for method in service.methods}


def test_an_unknown_method_and_service(ledger: Ledger) -> None:
    for path in ("/creditledger.v1.CreditLedger/Steal", "/creditledger.v9.CreditLedger/Deduct", "/x"):
        call = ledger.channel.unary_unary(path)
        assert code_of(lambda call=call: call(b"", timeout=30)) is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[misc]


def test_a_message_beyond_4_mib_is_refused_and_the_connection_lives_on(ledger: Ledger, account: str) -> None:
    code = code_of(lambda: ledger.raw("DeductRequest", bytes((4 << 20) + 1)))

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ledger.deduct(account).cost == 1


WRONG_IN_ALL_FIELDS: dict[str, tuple[Message, list[str]]] = {
    "CanPerform": (
        pb.CanPerformRequest(account_id="a b", account_level="PRO", operation="", quantity=0, metrics={"A": 1}),
        ["account_id", "operation", "quantity", "metrics['A']", "account_level"],
    ),
    "Deduct": (
        pb.DeductRequest(
            request_id="ä", account_id="", account_level="-", operation="1", quantity=-1,
            usage=resources_pb2.Usage(
                service="x" * 129, metrics={"ok": -1}, response_time=Duration(seconds=-1), outcome=9,  # type: ignore[arg-type]
                occur_time=Timestamp(nanos=-1),
            ),
        ),
        ["request_id", "account_id", "operation", "quantity", "usage.outcome", "usage.service", "usage.metrics['ok']",
         "usage.response_time", "usage.occur_time", "account_level"],
    ),
    "GetEntry": (pb.GetEntryRequest(), ["account_id", "revision"]),
    "ListEntries": (
        pb.ListEntriesRequest(
            page_size=-1, page_token="x", order=9, from_revision=-1, to_revision=-1,  # type: ignore[arg-type]
            start_time=Timestamp(nanos=-1), end_time=Timestamp(seconds=2**60), kinds=[1, 0, 99], operation="A",  # type: ignore[list-item]
        ),
        ["account_id", "page_size", "page_token", "order", "from_revision", "to_revision", "start_time", "end_time",
         "kinds[1]", "kinds[2]", "operation"],
    ),
    "WatchUsage": (
        pb.WatchUsageRequest(account_ids=["ok", "", "not ok"], kinds=[0]),  # type: ignore[list-item]
        ["account_ids[1]", "account_ids[2]", "kinds[0]"],
    ),
    "OpenAccount": (
        admin_pb.OpenAccountRequest(level="L", labels={"": "x"}),
        ["request_id", "account_id", "level", "labels"],
    ),
    "ListAccounts": (
        admin_pb.ListAccountsRequest(page_size=-9, page_token="x", prefix="%", level="%"),
        ["page_size", "page_token", "prefix", "level"],
    ),
    "GrantCredits": (
        admin_pb.GrantCreditsRequest(priority=1_001, reason="\0", labels={"k": "v" * 257}),
        ["request_id", "account_id", "amount", "priority", "reason", "labels['k']"],
    ),
    "UpdateCatalog": (admin_pb.UpdateCatalogRequest(), ["request_id", "catalog"]),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "fields"), WRONG_IN_ALL_FIELDS.values(), ids=WRONG_IN_ALL_FIELDS.keys())
def test_all_bad_fields_are_told_at_once(ledger: Ledger, request_: Message, fields: list[str]) -> None:
    failure = ledger.refusal(request_)

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert failure.kinds == {"BadRequest"}
    assert sorted(failure.fields) == sorted(fields)
    assert all(failure.fields.values())


def test_all_mistakes_of_a_catalog_are_told_at_once(ledger: Ledger) -> None:
    catalog = example_catalog()
    catalog.default_level = "none"
    catalog.operations.add(operation="Bad Name", flat=resources_pb2.FlatPrice(amount=-1))
    catalog.operations.add(operation="free_of_price")
    catalog.operations.add(operation="no_rates", metered=resources_pb2.MeteredPrice())
    catalog.levels[0].limits.add(operation="none", limit=-2)
    catalog.packages.add(package_id="p")

    failure = ledger.refusal(admin_pb.UpdateCatalogRequest(request_id=unique(), catalog=catalog))

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert {
        "catalog.default_level", 'catalog.operations."Bad Name"', 'catalog.operations."Bad Name".price.flat',
        "catalog.operations.free_of_price.price", "catalog.operations.no_rates.price.rates",
        "catalog.levels.free.limits[0].operation", "catalog.levels.free.limits[0].period",
        "catalog.levels.free.limits[0].limit", "catalog.packages.p.credits", "catalog.packages.p.price.currency_code",
        "catalog.packages.p.price.amount",
    } <= set(failure.fields)  # fmt: skip


def test_what_a_catalog_names_twice_is_told(ledger: Ledger) -> None:
    catalog = example_catalog()
    catalog.operations.append(catalog.operations[0])
    catalog.levels.append(catalog.levels[1])

    failure = ledger.refusal(admin_pb.UpdateCatalogRequest(request_id=unique(), catalog=catalog))

    assert list(failure.fields) == ["catalog.operations.chat_refinement", "catalog.levels.pro"]


def test_of_very_many_mistakes_the_first_are_told_and_the_number_of_the_others(ledger: Ledger) -> None:
    request = pb.WatchUsageRequest(account_ids=["not ok"] * 1_000)

    failure = ledger.refusal(request)

    assert failure.fields["account_ids[0]"]
    assert "980" in failure.fields[""]


HOSTILE = ("漢", "😀", "\u202e", "%", "\0", "\\", '"', "'")


@pytest.mark.parametrize("char", HOSTILE, ids=ascii)
def test_long_names_of_any_characters_do_not_make_the_error_too_large_to_arrive(
    ledger: Ledger, account: str, char: str
) -> None:
    labels = {char * 100 + str(number): "x" for number in range(32)}
    operations = [
        resources_pb2.Operation(
            operation=char * 100 + str(number // 2), flat=resources_pb2.FlatPrice(amount=1)
        )
        for number in range(60)
    ]
    requests: list[Message] = [
        admin_pb.GrantCreditsRequest(request_id=unique(), account_id=account, amount=1, labels=labels),
        deduction(account, usage=resources_pb2.Usage(metrics=dict.fromkeys(labels, 1))),
        admin_pb.UpdateCatalogRequest(
            request_id=unique(), catalog=resources_pb2.Catalog(operations=operations)
        ),
    ]

    for request in requests:
        assert ledger.refusal(request).word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert ledger.revision(account) == 2


def test_the_first_of_several_reasons_is_told(ledger: Ledger, shared_dsn: str, nobody: str) -> None:
    def refuse(**changes: Any) -> str:
        fields: dict[str, Any] = {"account_id": nobody, "operation": "voice_creation", "request_id": "used"}
        return ledger.refusal(pb.DeductRequest(**{**fields, **changes})).reason

    def set_state(state: int) -> None:
        rows(shared_dsn, "UPDATE account SET state = %s WHERE account_id = %s", state, nobody)

    assert refuse(quantity=0) == "FIELD_INVALID"
    assert refuse() == "ACCOUNT_NOT_FOUND"
    assert refuse(operation="no_such") == "ACCOUNT_NOT_FOUND"
    ledger.open(nobody, level="free", credits_=6)
    ledger.deduct(nobody, "voice_creation", request_id="used")
    set_state(2)
    assert refuse(quantity=0) == "FIELD_INVALID"
    assert refuse(quantity=9) == "REQUEST_ID_REUSED"
    assert refuse(operation="no_such") == "REQUEST_ID_REUSED"
    assert refuse(request_id="new") == "ACCOUNT_FROZEN"
    set_state(3)
    assert refuse(request_id="new") == "ACCOUNT_CLOSED"
    set_state(1)
    assert refuse(request_id="new") == "LIMIT_EXCEEDED"
    assert refuse(request_id="new", account_level="pro") == "INSUFFICIENT_CREDITS"


def test_a_ledger_without_a_catalog_says_so(dsn: str) -> None:
    with (
        serve_command("--database-url", dsn, "--listen", "127.0.0.1:0") as process,
        Ledger(ready_line(process).split()[1]) as ledger,
    ):
        missing = ledger.refusal(admin_pb.GetCatalogRequest())
        assert missing.word == "NOT_FOUND / CATALOG_NOT_FOUND"
        assert ledger.call(admin_pb.GetServerInfoRequest()).catalog_version == 0
        for kind in (pb.CanPerformRequest, pb.DeductRequest, admin_pb.GrantCreditsRequest):
            assert ledger.refusal(valid(kind, "nobody")).word == "NOT_FOUND / ACCOUNT_NOT_FOUND", kind
        for request in (
            deduction("nobody", account_level="pro"),
            pb.CanPerformRequest(account_id="nobody", account_level="pro", operation="chat_refinement"),
            admin_pb.OpenAccountRequest(request_id="open", account_id="nobody", level="pro"),
        ):
            failure = ledger.refusal(request)
            assert (failure.word, failure.kinds) == ("INVALID_ARGUMENT / LEVEL_UNKNOWN", {"BadRequest"})
            assert failure.metadata["level"] == "pro"
        update = admin_pb.UpdateCatalogRequest(request_id="u", catalog=example_catalog(), expected_version=0)
        assert ledger.call(update).catalog.version == 1
        assert ledger.deduct(ledger.open(credits_=1)).cost == 1
