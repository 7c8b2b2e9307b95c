"""Request ids: a call sent again has no second effect and gets the first answer (contract §3)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import (
    FAILED,
    Ledger,
    deduction,
    example_catalog,
    path_of,
    serving,
    unique,
    without_replayed,
)
from ledger_load import rows

REUSED = "ALREADY_EXISTS / REQUEST_ID_REUSED"


def metadata(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


def full_deduction(account_id: str) -> pb.DeductRequest:
    """A deduction that says everything."""
    return deduction(
        account_id,
        "voice_creation",
        account_level="free",
        quantity=1,
        usage=resources_pb2.Usage(
            service="openai",
            metrics={"tokens": 12, "bytes": 3},
            response_time=Duration(seconds=1),
            outcome=resources_pb2.Usage.OUTCOME_SUCCEEDED,
            occur_time=Timestamp(seconds=1_700_000_000),
            metadata=metadata(model="m", n=[1, {"x": None}]),
        ),
    )


def full_grant(account_id: str) -> admin_pb.GrantCreditsRequest:
    """A grant that says everything but from when on."""
    return admin_pb.GrantCreditsRequest(
        request_id=unique(),
        account_id=account_id,
        amount=50,
        priority=3,
        expire_time=Timestamp(seconds=4_000_000_000),
        reason="why",
        labels={"a": "1", "b": "2"},
    )


def full_opening(account_id: str) -> admin_pb.OpenAccountRequest:
    """An opening that says everything."""
    return admin_pb.OpenAccountRequest(
        request_id=unique(), account_id=account_id, level="free", labels={"a": "1", "b": "2"}
    )


def full_update(expected_version: int) -> admin_pb.UpdateCatalogRequest:
    """A new catalog that still has every operation of the example."""
    catalog = example_catalog(script_generation=1, video_processing=2)
    for level, limit in (("free", 1), ("pro", 20)):
        next(item for item in catalog.levels if item.level == level).limits.add(
            operation="voice_creation", period=resources_pb2.PERIOD_MONTH, limit=limit
        )
    catalog.packages.add(
        package_id="one",
        credits=1,
        price=resources_pb2.Price(currency_code="EUR", amount="1"),
        features=["x"],
    )
    return admin_pb.UpdateCatalogRequest(
        request_id=unique(), catalog=catalog, expected_version=expected_version
    )


@pytest.fixture
def free(ledger: Ledger) -> str:
    """A free account with 100 credits."""
    return ledger.open(level="free", credits_=100)


@pytest.fixture
def requests(ledger: Ledger, free: str, nobody: str) -> list[Message]:
    """A request of every method that changes something."""
    version = ledger.call(admin_pb.GetServerInfoRequest()).catalog_version
    return [full_deduction(free), full_opening(nobody), full_grant(free), full_update(version)]


def test_a_request_sent_again_gets_the_first_response_field_for_field(
    ledger: Ledger, requests: list[Message], free: str
) -> None:
    first = [ledger.call(request) for request in requests]
    history = ledger.entries(free)

    for _ in range(2):
        again = [ledger.call(request) for request in requests]

        assert [response.replayed for response in again] == [True] * len(requests)
        assert [without_replayed(response) for response in again] == first
    assert ledger.entries(free) == history


def test_a_request_sent_again_after_kill_9_and_restart_gets_the_first_response(dsn: str) -> None:
    with serving(dsn) as (process, ledger):
        account = ledger.open("account", level="free", credits_=100)
        sent = [full_deduction(account), full_opening("other"), full_grant(account), full_update(1)]
        first = [ledger.call(request) for request in sent]
        process.kill()

    with serving(dsn) as (_, ledger):
        again = [ledger.call(request) for request in sent]

        assert [response.replayed for response in again] == [True] * len(sent)
        assert [without_replayed(response) for response in again] == first
        assert ledger.revision(account) == 4


def test_a_replay_tells_balance_and_limits_as_they_were(ledger: Ledger, account: str) -> None:
    request = deduction(account, "voice_creation")
    first = ledger.call(request)
    ledger.deduct(account, "voice_creation", quantity=7)
    ledger.grant(account, 1_000)

    again = ledger.call(request)

    assert (again.balance.available, again.limits[0].used) == (95, 1)
    assert without_replayed(again) == first


def changed(**fields: Any) -> Callable[[Any], None]:
    """Sets fields, by paths like usage__service; a function value changes the field itself."""

    def change(request: Any) -> None:
        for path, value in fields.items():
            *parents, name = path.split("__")
            message = request
            for parent in parents:
                message = getattr(message, parent)
            if callable(value):
                value(getattr(message, name))
            elif isinstance(value, Message):
                getattr(message, name).CopyFrom(value)
            else:
                setattr(message, name, value)

    return change


def cleared(*path: str) -> Callable[[Any], None]:
    """Clears a field."""

    def change(request: Any) -> None:
        message = request
        for name in path[:-1]:
            message = getattr(message, name)
        message.ClearField(path[-1])

    return change


DEDUCT_CHANGES: dict[str, Callable[[Any], None]] = {
    "account_level": changed(account_level="pro"),
    "account_level absent": cleared("account_level"),
    "operation": changed(operation="script_generation"),
    "quantity": changed(quantity=2),
    "usage absent": cleared("usage"),
    "usage.service": changed(usage__service="OpenAI"),
    "usage.service absent": cleared("usage", "service"),
    "usage.metrics value": changed(usage__metrics=lambda metrics: metrics.update(tokens=13)),
    "usage.metrics name": changed(usage__metrics=lambda metrics: (metrics.pop("bytes"), metrics.update(x=3))),
    "usage.metrics one more": changed(usage__metrics=lambda metrics: metrics.update(x=0)),
    "usage.metrics absent": cleared("usage", "metrics"),
    "usage.response_time": changed(usage__response_time=Duration(seconds=1, nanos=1_000)),
    "usage.response_time zero": changed(usage__response_time=Duration()),
    "usage.response_time absent": cleared("usage", "response_time"),
    "usage.outcome": changed(usage__outcome=resources_pb2.Usage.OUTCOME_FAILED),
    "usage.occur_time": changed(usage__occur_time=Timestamp(seconds=1_700_000_001)),
    "usage.occur_time absent": cleared("usage", "occur_time"),
    "usage.metadata value": changed(usage__metadata=metadata(model="M", n=[1, {"x": None}])),
    "usage.metadata nested": changed(usage__metadata=metadata(model="m", n=[1, {"x": False}])),
    "usage.metadata type": changed(usage__metadata=metadata(model="m", n=["1", {"x": None}])),
    "usage.metadata list order": changed(usage__metadata=metadata(model="m", n=[{"x": None}, 1])),
    "usage.metadata absent": cleared("usage", "metadata"),
}
GRANT_CHANGES: dict[str, Callable[[Any], None]] = {
    "amount": changed(amount=51),
    "priority": changed(priority=-3),
    "reason": changed(reason="why "),
    "reason absent": cleared("reason"),
    "effective_time": changed(effective_time=Timestamp(seconds=3_000_000_000)),
    "effective_time past": changed(effective_time=Timestamp(seconds=1)),
    "expire_time": changed(expire_time=Timestamp(seconds=4_000_000_000, nanos=1_000)),
    "expire_time absent": cleared("expire_time"),
    "labels value": changed(labels=lambda labels: labels.update(a="2")),
    "labels swapped": changed(labels=lambda labels: labels.update(a="2", b="1")),
    "labels absent": cleared("labels"),
}
OPEN_CHANGES: dict[str, Callable[[Any], None]] = {
    "level": changed(level="pro"),
    "labels value": changed(labels=lambda labels: labels.update(a="2")),
    "labels key": changed(labels=lambda labels: (labels.pop("a"), labels.update(A="1"))),
    "labels absent": cleared("labels"),
}
UPDATE_CHANGES: dict[str, Callable[[Any], None]] = {
    "expected_version": changed(expected_version=7),
    "expected_version absent": cleared("expected_version"),
    "catalog price": lambda request: changed(amount=9)(request.catalog.operations[0].flat),
    "catalog name": lambda request: changed(display_name="x")(request.catalog.operations[0]),
    "catalog limit": lambda request: changed(limit=9)(request.catalog.levels[0].limits[0]),
    "catalog period": lambda request: changed(period=resources_pb2.PERIOD_DAY)(
        request.catalog.levels[0].limits[0]
    ),
    "catalog default_level": changed(catalog__default_level="pro"),
    "catalog features": lambda request: request.catalog.packages[0].features.append("y"),
    "catalog package price": lambda request: changed(amount="2")(request.catalog.packages[0].price),
}
ALL_CHANGES = [
    pytest.param(index, change, id=f"{method}-{name}")
    for index, (method, changes) in enumerate(
        {
            "Deduct": DEDUCT_CHANGES,
            "Open": OPEN_CHANGES,
            "Grant": GRANT_CHANGES,
            "Update": UPDATE_CHANGES,
        }.items()
    )
    for name, change in changes.items()
]


@pytest.mark.parametrize(("index", "change"), ALL_CHANGES)
def test_other_content_under_the_same_id_is_refused_without_effect(
    ledger: Ledger, requests: list[Any], free: str, index: int, change: Callable[[Any], None]
) -> None:
    request = requests[index]
    first = ledger.call(request)
    history, catalog = ledger.entries(free), ledger.call(admin_pb.GetCatalogRequest())
    other = type(request)()
    other.CopyFrom(request)
    change(other)
    assert other != request

    refusal = ledger.refusal(other)

    assert refusal.word == REUSED
    assert refusal.metadata["requestId"] == request.request_id
    assert ledger.entries(free) == history
    assert ledger.call(admin_pb.GetCatalogRequest()) == catalog
    assert without_replayed(ledger.call(request)) == first


@pytest.mark.parametrize(
    ("message", "changes", "names"),
    [
        (pb.DeductRequest, DEDUCT_CHANGES, set()),
        (resources_pb2.Usage, {name.removeprefix("usage."): None for name in DEDUCT_CHANGES}, set()),
        (admin_pb.OpenAccountRequest, OPEN_CHANGES, set()),
        (admin_pb.GrantCreditsRequest, GRANT_CHANGES, set()),
        (admin_pb.UpdateCatalogRequest, UPDATE_CHANGES, set()),
    ],
)
def test_every_semantic_field_is_among_the_changes_above(
    message: type[Message], changes: dict[str, object], names: set[str]
) -> None:
    fields = {field.name for field in message.DESCRIPTOR.fields} - {"request_id", "account_id"}

    assert fields - names <= {name.split()[0].split(".")[0] for name in changes}


@pytest.mark.parametrize("first", range(3))
def test_an_id_of_one_method_is_taken_for_all_methods(
    ledger: Ledger, requests: list[Any], nobody: str, first: int
) -> None:
    account = nobody
    by_method: list[Any] = [
        deduction(account, usage=FAILED, account_level="free"),
        requests[1],
        full_grant(account),
    ]
    if first == 2:
        ledger.open(account)
    for request in by_method:
        request.request_id = "the-same"
        request.account_id = account
    ledger.call(by_method[first])
    history = ledger.entries(account)

    others = [ledger.refusal(request).word for i, request in enumerate(by_method) if i != first]

    assert others == [REUSED, REUSED]
    [result] = ledger.call(
        pb.BatchDeductRequest(requests=[deduction(account, quantity=9, request_id="the-same")])
    ).results
    assert result.status.code == 6
    assert ledger.entries(account) == history


def test_the_same_id_on_another_account_is_another_request(ledger: Ledger) -> None:
    accounts = [ledger.open(credits_=10) for _ in range(2)]

    responses = [ledger.deduct(account, "voice_creation", request_id="shared") for account in accounts]
    grants = [ledger.grant(account, 5, request_id="shared-too") for account in accounts]

    assert not any(response.replayed for response in responses)
    assert not any(response.replayed for response in grants)
    assert [ledger.available(account) for account in accounts] == [10, 10]


def test_ids_are_case_sensitive(ledger: Ledger, account: str) -> None:
    responses = [ledger.deduct(account, request_id=request_id) for request_id in ("case", "Case", "CASE")]

    assert [response.entry.revision for response in responses] == [3, 4, 5]


@pytest.mark.parametrize("request_id", ["x", "x" * 128, "Az09._:@/+=-", "null", "NULL", "-1"])
def test_every_allowed_id_is_kept_and_found(ledger: Ledger, account: str, request_id: str) -> None:
    request = deduction(account, request_id=request_id)
    first = ledger.call(request)

    assert first.entry.request_id == request_id
    assert ledger.call(request).replayed
    found = ledger.call(pb.GetEntryRequest(account_id=account, request_id=request_id)).entry
    assert found == first.entry


def test_after_a_refusal_for_credits_and_a_top_up_the_same_id_succeeds(ledger: Ledger) -> None:
    account = ledger.open(credits_=4)
    request = deduction(account, "voice_creation")
    assert ledger.refusal(request).reason == "INSUFFICIENT_CREDITS"
    ledger.grant(account, 1)

    response = ledger.call(request)

    assert (response.replayed, response.cost, response.balance.available) == (False, 5, 0)


def test_a_refused_id_may_be_used_for_something_else(ledger: Ledger) -> None:
    account = ledger.open(credits_=1)
    request = deduction(account, "voice_creation")
    ledger.refusal(request)

    assert ledger.grant(account, 5, request_id=request.request_id).replayed is False
    assert ledger.refusal(request).word == REUSED


def test_a_refusal_for_the_account_is_not_kept(ledger: Ledger, nobody: str) -> None:
    request = deduction(nobody, usage=FAILED)
    assert ledger.refusal(request).reason == "ACCOUNT_NOT_FOUND"
    ledger.open(nobody)

    assert ledger.call(request).replayed is False


def test_a_replay_is_answered_once_limits_and_credits_are_used_up(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=5)
    request = deduction(account, "voice_creation")
    first = ledger.call(request)
    assert ledger.refused_deduct(account, "voice_creation").reason == "LIMIT_EXCEEDED"
    assert ledger.refused_deduct(account).reason == "INSUFFICIENT_CREDITS"

    assert without_replayed(ledger.call(request)) == first


@pytest.mark.parametrize("state", [2, 3])
def test_a_replay_is_answered_on_frozen_and_closed_accounts(
    ledger: Ledger, shared_dsn: str, account: str, state: int
) -> None:
    sent: list[Any] = [deduction(account), full_grant(account)]
    first = [ledger.call(request) for request in sent]
    rows(shared_dsn, "UPDATE account SET state = %s WHERE account_id = %s", state, account)

    assert [without_replayed(ledger.call(request)) for request in sent] == first


def test_a_replay_does_not_change_the_level_back(ledger: Ledger, free: str) -> None:
    request = deduction(free, account_level="free")
    first = ledger.call(request)
    ledger.deduct(free, account_level="pro")

    assert without_replayed(ledger.call(request)) == first
    assert ledger.balance(free).account.level == "pro"


def test_a_replay_is_answered_after_the_catalog_dropped_operation_and_level(dsn: str) -> None:
    with serving(dsn) as (_, ledger):
        account = ledger.open("account", level="free", credits_=10)
        sent: list[Any] = [full_deduction(account), full_opening("other")]
        first = [ledger.call(request) for request in sent]
        catalog = resources_pb2.Catalog(levels=[resources_pb2.Level(level="new")], default_level="new")
        ledger.call(admin_pb.UpdateCatalogRequest(request_id="drop", catalog=catalog))

        assert [without_replayed(ledger.call(request)) for request in sent] == first
        assert ledger.refused_deduct(account, account_level="new").reason == "OPERATION_UNKNOWN"
        assert ledger.refused_deduct(account).reason == "LEVEL_UNKNOWN"


def test_a_replayed_catalog_is_the_one_of_then(ledger: Ledger) -> None:
    version = ledger.call(admin_pb.GetServerInfoRequest()).catalog_version
    request = full_update(version)
    first = ledger.call(request)
    newer = ledger.call(admin_pb.UpdateCatalogRequest(request_id=unique(), catalog=full_update(0).catalog))

    again = ledger.call(request)

    assert (again.replayed, without_replayed(again)) == (True, first)
    assert newer.catalog.version == version + 2
    assert ledger.call(admin_pb.GetCatalogRequest()).catalog == newer.catalog


def reordered(part: Message, other: Message, rest: Message) -> Iterator[bytes]:
    """One message in two orders of its bytes."""
    parts = [message.SerializeToString() for message in (part, other)]
    yield rest.SerializeToString() + parts[0] + parts[1]
    yield parts[1] + parts[0] + rest.SerializeToString()


def test_the_order_of_fields_and_of_map_entries_does_not_matter(ledger: Ledger, account: str) -> None:
    def with_metrics(**metrics: int) -> pb.DeductRequest:
        return pb.DeductRequest(usage=resources_pb2.Usage(metrics=metrics, metadata=metadata(**metrics)))

    deducts = reordered(with_metrics(a=1), with_metrics(b=2), deduction(account))
    grants = reordered(
        admin_pb.GrantCreditsRequest(labels={"a": "1"}),
        admin_pb.GrantCreditsRequest(labels={"b": "2"}),
        admin_pb.GrantCreditsRequest(request_id=unique(), account_id=account, amount=1),
    )
    for kind, (one, two) in (("DeductRequest", deducts), ("GrantCreditsRequest", grants)):
        assert one != two
        first, again = ledger.raw(kind, one), ledger.raw(kind, two)
        assert (first.replayed, again.replayed) == (False, True)
        assert without_replayed(again) == first


def test_the_order_of_catalog_parts_does_not_matter(ledger: Ledger) -> None:
    version = ledger.call(admin_pb.GetServerInfoRequest()).catalog_version
    request = full_update(version)
    first = ledger.call(request)
    parts: list[Any] = [request.catalog.operations, request.catalog.levels]
    for part in parts:
        items = list(part)
        del part[:]
        part.extend(reversed(items))

    assert without_replayed(ledger.call(request)) == first


def test_values_that_mean_the_same_are_the_same(ledger: Ledger, account: str) -> None:
    request = deduction(account, usage=resources_pb2.Usage(service="s"))
    first = ledger.call(request)
    request.quantity = 1
    request.usage.outcome = resources_pb2.Usage.OUTCOME_SUCCEEDED

    assert without_replayed(ledger.call(request)) == first


def test_unknown_fields_headers_and_deadlines_are_not_part_of_a_request(ledger: Ledger, account: str) -> None:
    request = deduction(account)
    first = ledger.call(request)
    unknown = b"\xfa\x7f\x03abc"

    again = ledger.raw("DeductRequest", request.SerializeToString() + unknown, timeout=33)
    traced = ledger.call(request, metadata=(("traceparent", "00-1-2-3"), ("x-request-id", "other")))

    assert again.replayed and traced.replayed
    assert without_replayed(again) == without_replayed(traced) == first


def test_a_field_that_comes_twice_counts_with_its_last_value(ledger: Ledger, account: str) -> None:
    twice = (
        deduction(account, quantity=9).SerializeToString() + pb.DeductRequest(quantity=2).SerializeToString()
    )
    response = ledger.raw("DeductRequest", twice)

    assert response.entry.quantity == 2
    request_id = response.entry.request_id
    assert ledger.deduct(account, request_id=request_id, quantity=2).replayed
    assert ledger.refused_deduct(account, request_id=request_id, quantity=9).word == REUSED


def test_of_copies_sent_at_once_one_is_carried_out_and_all_get_its_answer(
    ledger: Ledger, account: str
) -> None:
    sent: list[Any] = [deduction(account, "voice_creation"), full_grant(account), full_opening(unique("new"))]
    for request in sent:
        together = threading.Barrier(12)

        def send(request: Any = request, together: threading.Barrier = together) -> Any:
            together.wait()
            return ledger.call(request)

        with ThreadPoolExecutor(12) as pool:
            answers = [future.result() for future in [pool.submit(send) for _ in range(12)]]

        assert sorted(answer.replayed for answer in answers) == [False] + [True] * 11
        assert all(without_replayed(answer) == without_replayed(answers[0]) for answer in answers)
    assert ledger.revision(account) == 4


def test_every_mutation_needs_an_id(ledger: Ledger, requests: list[Any], free: str) -> None:
    for request in requests:
        request.ClearField("request_id")

        refusal = ledger.refusal(request)

        assert refusal.word == "INVALID_ARGUMENT / FIELD_INVALID", path_of(type(request).__name__)
        assert list(refusal.fields) == ["request_id"]
    assert ledger.revision(free) == 2
