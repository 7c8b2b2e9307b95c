"""The main flow by both client libraries against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from creditledger import (
    AccountExists,
    AccountNotFound,
    AsyncCreditLedgerClient,
    CreditLedgerClient,
    CursorInvalid,
    DeductRequest,
    EntryNotFound,
    InsufficientCredits,
    InvalidRequest,
    LimitExceeded,
    RequestIdReused,
    Usage,
    VersionMismatch,
    raise_for_status,
)
from ledger_calls import serving, unique, without_replayed
from ledger_harness import ServerProcess


class SyncDriver:
    """CreditLedgerClient, as it is."""

    def __init__(self, target: str) -> None:
        self._client = CreditLedgerClient(target, timeout=60)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._client, name)
        return method

    def next_of(self, watch: Any) -> Any:
        return next(watch)

    def close(self) -> None:
        self._client.close()


class AsyncDriver:
    """AsyncCreditLedgerClient, each call of which is awaited at once."""

    def __init__(self, target: str) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._make(target))

    async def _make(self, target: str) -> AsyncCreditLedgerClient:
        return AsyncCreditLedgerClient(target, timeout=60)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            answer = getattr(self._client, name)(*args, **kwargs)
            return answer if name == "watch_usage" else await answer

        return lambda *args, **kwargs: self._runner.run(call(*args, **kwargs))

    def next_of(self, watch: Any) -> Any:
        return self._runner.run(anext(watch))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


DRIVERS: dict[str, Callable[[str], Any]] = {"sync": SyncDriver, "async": AsyncDriver}


@pytest.fixture(params=list(DRIVERS.values()), ids=list(DRIVERS))
def client(request: pytest.FixtureRequest, shared_server: ServerProcess) -> Iterator[Any]:
    """Both clients, one after the other."""
    driver = request.param(shared_server.target)
    yield driver
    driver.close()


@pytest.fixture
def user(client: Any) -> str:
    """A free account with 10 credits."""
    account = unique("user")
    client.open_account(account)
    client.grant_credits(account, 10)
    return account


def test_open_grant_check_deduct_and_read(client: Any) -> None:
    account = unique("user")
    opened = client.open_account(account, level="pro", labels={"team": "a"})
    granted = client.grant_credits(account, 20, reason="welcome", priority=1)
    check = client.can_perform(account, "voice_creation", quantity=2)
    usage = Usage(service="openai", metrics={"tokens": 12})
    deducted = client.deduct(account, "voice_creation", quantity=2, usage=usage)
    balance = client.get_balance(account)
    entries = client.list_entries(account).entries

    assert (opened.account.level, dict(opened.account.labels)) == ("pro", {"team": "a"})
    assert (granted.balance.available, granted.grant.priority) == (20, 1)
    assert (check.allowed, check.cost) == (True, 10)
    assert (deducted.cost, deducted.balance.available, deducted.replayed) == (10, 10, False)
    assert dict(deducted.entry.usage.metrics) == {"tokens": 12}
    assert (balance.balance, balance.revision) == (deducted.balance, 3)
    assert [entry.revision for entry in entries] == [3, 2, 1]
    assert client.get_entry(account, revision=3).entry == deducted.entry
    assert client.get_entry(account, request_id=deducted.entry.request_id).entry == deducted.entry
    assert client.get_account(account).account == balance.account
    assert client.verify_account(account).valid
    assert client.get_server_info().catalog_version == client.get_catalog().catalog.version
    assert account in {found.account_id for found in client.list_accounts(prefix=account).accounts}


def test_a_call_of_the_same_request_id_is_a_replay(client: Any, user: str) -> None:
    first = client.deduct(user, "chat_refinement", request_id="job-1")
    again = client.deduct(user, "chat_refinement", request_id="job-1")

    assert (first.replayed, again.replayed) == (False, True)
    assert without_replayed(again) == first
    with pytest.raises(RequestIdReused) as reused:
        client.deduct(user, "chat_refinement", request_id="job-1", quantity=2)
    assert reused.value.metadata["requestId"] == "job-1"


def test_calls_without_a_request_id_are_calls_of_their_own(client: Any, user: str) -> None:
    assert [client.deduct(user, "chat_refinement").entry.revision for _ in range(3)] == [3, 4, 5]


def test_refusals_are_raised_by_their_reason(client: Any, user: str) -> None:
    with pytest.raises(InsufficientCredits) as short:
        client.deduct(user, "chat_refinement", quantity=11)
    client.deduct(user, "voice_creation")
    with pytest.raises(LimitExceeded) as limited:
        client.deduct(user, "voice_creation")
    with pytest.raises(AccountNotFound):
        client.get_balance(unique("nobody"))
    with pytest.raises(AccountExists):
        client.open_account(user)
    with pytest.raises(InvalidRequest) as invalid:
        client.grant_credits(user, 0, priority=5_000)
    with pytest.raises(CursorInvalid):
        client.next_of(client.watch_usage(user, cursor="x"))
    with pytest.raises(VersionMismatch):
        client.update_catalog(client.get_catalog().catalog, expected_version=77)
    with pytest.raises(EntryNotFound):
        client.get_balance(user, at_revision=99)

    assert short.value.metadata["shortfall"] == "1"
    assert not short.value.outcome_unknown
    assert limited.value.retry_delay is not None
    assert {violation.field for violation in invalid.value.field_violations} == {"amount", "priority"}
    assert client.get_balance(user).balance.available == 5


def test_a_batch_tells_each_item_apart(client: Any, user: str) -> None:
    requests = [
        DeductRequest(account_id=user, operation="chat_refinement", quantity=quantity)
        for quantity in (4, 0, 40, 6)
    ]

    first, bad, refused, last = client.batch_deduct(requests).results

    assert (raise_for_status(first).cost, raise_for_status(last).balance.available) == (4, 0)
    with pytest.raises(InvalidRequest):
        raise_for_status(bad)
    with pytest.raises(InsufficientCredits):
        raise_for_status(refused)


def test_a_level_opens_and_changes_an_account(client: Any) -> None:
    account = unique("user")
    failed = Usage(outcome=Usage.OUTCOME_FAILED)

    client.deduct(account, "chat_refinement", account_level="free", usage=failed)
    client.deduct(account, "chat_refinement", account_level="pro", usage=failed)

    assert client.get_account(account).account.level == "pro"
    assert client.can_perform(account, "chat_refinement").allowed is False


def test_a_watch_tells_what_happens(client: Any, user: str) -> None:
    watch = client.watch_usage(user)
    snapshot = client.next_of(watch)
    deducted = client.deduct(user, "voice_creation")
    change = client.next_of(watch)

    assert snapshot.snapshot.balance.available == 10
    assert change.change.entry == deducted.entry
    assert list(change.change.limits) == list(deducted.limits)
    resumed = client.watch_usage(user, cursor=snapshot.cursor)
    assert client.next_of(resumed).change.entry == deducted.entry
    assert client.next_of(resumed).WhichOneof("event") == "caught_up"


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS.keys())
def test_calls_and_watches_outlive_a_restart_of_the_server(dsn: str, driver: Callable[[str], Any]) -> None:
    with serving(dsn) as (process, _), ExitStack() as stack:
        client = driver(process.target)
        stack.callback(client.close)
        client.open_account("user", level="pro")
        client.grant_credits("user", 10)
        watch = client.watch_usage("user")
        client.next_of(watch)
        first = client.deduct("user", "chat_refinement", request_id="job")
        assert client.next_of(watch).change.entry == first.entry
        assert process.stop() == 0
        with serving(dsn, "--listen", process.target) as (_, other):
            again = client.deduct("user", "chat_refinement", request_id="job")
            second = other.deduct("user")
            message = client.next_of(watch)
            while message.WhichOneof("event") != "change":
                message = client.next_of(watch)

            assert without_replayed(again) == first
            assert message.change.entry == second.entry
