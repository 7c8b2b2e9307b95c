"""The example backend, against a real server with its catalog: what the implementation guide's two features do."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from creditledger import AccountState, CreditLedgerClient, Entry, EntryKind, Unavailable, Usage
from example_programs import load, running
from ledger_harness import ROOT, ServerProcess, running_server

BACKEND = ROOT / "examples/backend/app.py"
CATALOG = ROOT / "examples/backend/catalog.toml"

app = load(BACKEND)

CHARGES = (EntryKind.ENTRY_KIND_DEDUCTED, EntryKind.ENTRY_KIND_COMMITTED)


class Work:
    """Work that counts how often it was done, and fails as often as it is told to."""

    def __init__(self, failures: int = 0, tokens: int = 2_500) -> None:
        self.times = 0
        self._failures = failures
        self._tokens = tokens

    def __call__(self, text: str) -> Any:
        self.times += 1
        if self.times <= self._failures:
            raise ConnectionError("the model did not answer")
        return app.Made(f"about {text}", tokens=self._tokens)


def never(text: str) -> Any:
    """Work that must not be done."""
    raise AssertionError(text)


class Losing(CreditLedgerClient):
    """A client that loses the answers to so many calls that charge."""

    lost = 0

    def deduct(self, *args: Any, **kwargs: Any) -> Any:
        return self._lose(super().deduct(*args, **kwargs), kwargs)

    def commit_reservation(self, *args: Any, **kwargs: Any) -> Any:
        return self._lose(super().commit_reservation(*args, **kwargs), kwargs)

    def _lose(self, response: Any, sent: dict[str, Any]) -> Any:
        if self.lost:
            self.lost -= 1
            raise Unavailable("connection reset", request_ids=[sent["request_id"]], outcome_unknown=True)
        return response


@pytest.fixture
def server(dsn: str) -> Iterator[ServerProcess]:
    """A server with the catalog of the example."""
    with running_server(dsn, catalog=CATALOG) as process:
        yield process


@pytest.fixture
def losing(server: ServerProcess) -> Iterator[Losing]:
    with Losing(server.target) as client:
        yield client


def voice(request_id: str = "req-1", user: str = "user-1") -> Any:
    return app.Request(app.VOICE, request_id, user, "credits")


def chat(request_id: str = "req-1", user: str = "user-1") -> Any:
    return app.Request(app.CHAT, request_id, user, "credits")


def voices(ledger: CreditLedgerClient, work: Callable[[str], Any]) -> Any:
    return app.Backend(ledger, work, never)


def chats(ledger: CreditLedgerClient, work: Callable[[str], Any]) -> Any:
    return app.Backend(ledger, never, work)


def charges(ledger: CreditLedgerClient, user: str = "user-1") -> list[Entry]:
    return list(ledger.list_entries(user, kinds=CHARGES).entries)


def kinds(ledger: CreditLedgerClient, user: str = "user-1") -> list[str]:
    """What happened, oldest first, after the account was opened with its allowance."""
    entries = ledger.list_entries(user, from_revision=3).entries
    return [EntryKind.Name(entry.kind).removeprefix("ENTRY_KIND_") for entry in reversed(entries)]


def spend(ledger: CreditLedgerClient, credits_: int) -> None:
    """Leaves a new user on free with so much less than the allowance."""
    usage = Usage(metrics={"tokens": credits_ * 1_000})
    ledger.deduct("user-1", "chat_refinement", usage=usage, account_level="free")


# --- Voices


def test_voice_is_reserved_made_and_committed_with_its_usage(ledger: CreditLedgerClient) -> None:
    response = voices(ledger, Work(tokens=7)).handle(voice())
    assert (response.status, response.body) == (200, {"text": "about credits", "cost": 5, "available": 5})
    assert kinds(ledger) == ["RESERVED", "COMMITTED"]
    [charge] = charges(ledger)
    assert (charge.cost, charge.operation, charge.usage.service) == (5, "voice_creation", "example-model")
    assert dict(charge.usage.metrics) == {"tokens": 7}
    assert dict(charge.usage.metadata) == {"inputLength": 7, "outputLength": 13}
    assert charge.usage.HasField("response_time")


def test_credits_of_a_voice_cannot_be_spent_while_it_is_made(ledger: CreditLedgerClient) -> None:
    def work(text: str) -> Any:
        balance = ledger.get_balance("user-1").balance
        assert (balance.available, balance.reserved) == (5, 5)
        assert not ledger.can_perform("user-1", "chat_refinement", metrics={"tokens": 6_000}).allowed
        return app.Made(text, tokens=1)

    assert voices(ledger, work).handle(voice()).status == 200


def test_voice_that_cannot_be_made_gives_its_credits_and_its_use_back(ledger: CreditLedgerClient) -> None:
    backend = voices(ledger, Work(failures=1))
    failed = backend.handle(voice())
    assert (failed.status, failed.body["error"]) == (502, "WORK_FAILED")
    assert kinds(ledger) == ["RESERVED", "RELEASED"]
    assert ledger.get_balance("user-1").balance.available == 10
    assert backend.handle(voice("req-2")).status == 200


def test_request_whose_voice_failed_is_over_and_told_so_before_any_work(ledger: CreditLedgerClient) -> None:
    assert voices(ledger, Work(failures=1)).handle(voice()).status == 502
    again = voices(ledger, never).handle(voice())
    assert (again.status, again.body["error"]) == (409, "RESERVATION_RELEASED")
    assert not charges(ledger)


def test_short_account_gets_402_before_any_voice(ledger: CreditLedgerClient) -> None:
    spend(ledger, 6)
    response = voices(ledger, never).handle(voice())
    assert (response.status, response.body["error"]) == (402, "INSUFFICIENT_CREDITS")


def test_free_has_one_voice_a_month_and_pro_twenty(ledger: CreditLedgerClient) -> None:
    backend = voices(ledger, Work())
    free = [backend.handle(voice(f"req-{number}")) for number in range(2)]
    assert [response.status for response in free] == [200, 429]
    assert free[1].body["error"] == "LIMIT_EXCEEDED"
    assert 0 < int(free[1].headers["Retry-After"]) <= 31 * 86_400
    pro = [backend.handle(voice(f"req-{number}", user="user-pro")).status for number in range(21)]
    assert pro == [200] * 20 + [429]


def test_retry_gets_the_same_voice_and_is_neither_charged_nor_worked_for_again(
    ledger: CreditLedgerClient,
) -> None:
    work = Work()
    backend = voices(ledger, work)
    first = backend.handle(voice())
    assert backend.handle(voice()) == first
    assert (len(charges(ledger)), work.times) == (1, 1)


def test_voice_whose_commit_was_not_answered_stays_reserved_and_a_retry_finds_it_paid(
    losing: Losing, ledger: CreditLedgerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "COMMIT_SECONDS", 0.2)
    work = Work()
    backend = voices(losing, work)
    losing.lost = 100
    lost = backend.handle(voice())
    assert (lost.status, lost.headers) == (503, {"Retry-After": "1"})
    losing.lost = 0
    assert backend.handle(voice()).body == {"text": "about credits", "cost": 5, "available": 5}
    assert backend.handle(voice()).status == 200
    assert (kinds(ledger), work.times) == (["RESERVED", "COMMITTED"], 1)


def test_account_frozen_while_its_voice_is_made_gets_403_and_the_voice_once_it_is_not(
    ledger: CreditLedgerClient,
) -> None:
    work = Work()

    def slow_work(text: str) -> Any:
        ledger.update_account("user-1", state=AccountState.ACCOUNT_STATE_FROZEN)
        return work(text)

    backend = voices(ledger, slow_work)
    assert backend.handle(voice()).status == 403
    ledger.update_account("user-1", state=AccountState.ACCOUNT_STATE_ACTIVE)
    assert backend.handle(voice()).status == 200
    assert (len(charges(ledger)), work.times) == (1, 1)


def test_same_voice_twice_at_once_is_charged_once(ledger: CreditLedgerClient) -> None:
    together = Barrier(2, timeout=10)

    def work(text: str) -> Any:
        together.wait()
        return app.Made(text, tokens=1)

    backend = voices(ledger, work)
    with ThreadPoolExecutor(2) as pool:
        statuses = sorted(each.status for each in pool.map(backend.handle, [voice(), voice()]))
    assert statuses == [200, 409]
    assert backend.handle(voice()).status == 200
    assert [charge.cost for charge in charges(ledger)] == [5]


# --- Chats


def test_refinement_is_charged_for_its_tokens(ledger: CreditLedgerClient) -> None:
    response = chats(ledger, Work(tokens=2_500)).handle(chat())
    assert (response.status, response.body) == (200, {"text": "about credits", "cost": 3, "available": 7})
    [charge] = charges(ledger)
    assert (charge.cost, charge.request_id, charge.usage.service) == (3, "req-1", "example-model")
    assert dict(charge.usage.metrics) == {"tokens": 2_500}
    assert dict(charge.usage.metadata) == {"inputLength": 7, "outputLength": 13}
    assert charge.usage.HasField("response_time")


@pytest.mark.parametrize(("tokens", "cost"), [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (4_000, 4)])
def test_a_thousand_tokens_cost_a_credit_and_a_refinement_one_at_least(
    ledger: CreditLedgerClient, tokens: int, cost: int
) -> None:
    assert chats(ledger, Work(tokens=tokens)).handle(chat()).body["cost"] == cost


def test_work_that_failed_is_recorded_and_free_and_its_retry_is_charged(ledger: CreditLedgerClient) -> None:
    backend = chats(ledger, Work(failures=1))
    assert backend.handle(chat()).status == 502
    [attempt] = charges(ledger)
    assert (attempt.cost, attempt.usage.outcome) == (0, Usage.OUTCOME_FAILED)
    assert backend.handle(chat()).status == 200
    assert [charge.cost for charge in charges(ledger)] == [3, 0]


def test_retry_gets_the_same_refinement_and_is_neither_charged_nor_worked_for_again(
    ledger: CreditLedgerClient,
) -> None:
    work = Work()
    backend = chats(ledger, work)
    first = backend.handle(chat())
    assert backend.handle(chat()) == first
    assert (len(charges(ledger)), work.times) == (1, 1)


def test_retry_after_a_lost_answer_is_charged_once(losing: Losing, ledger: CreditLedgerClient) -> None:
    work = Work()
    backend = chats(losing, work)
    losing.lost = 1
    lost = backend.handle(chat())
    assert (lost.status, lost.headers) == (503, {"Retry-After": "1"})
    assert backend.handle(chat()).body["available"] == 7
    assert (len(charges(ledger)), work.times) == (1, 1)


def test_retry_with_the_last_credit_spent_is_answered_not_denied(
    losing: Losing, ledger: CreditLedgerClient
) -> None:
    spend(ledger, 6)
    backend = chats(losing, Work(tokens=4_000))
    losing.lost = 1
    assert [backend.handle(chat()).status for _ in range(3)] == [503, 200, 200]
    assert [charge.cost for charge in charges(ledger)] == [4, 6]


def test_same_refinement_twice_at_once_is_charged_once(ledger: CreditLedgerClient) -> None:
    together = Barrier(2, timeout=10)
    usage_differs = iter([1, 2])

    def work(text: str) -> Any:
        together.wait()
        return app.Made(text, tokens=next(usage_differs))

    backend = chats(ledger, work)
    with ThreadPoolExecutor(2) as pool:
        statuses = [each.status for each in pool.map(backend.handle, [chat(), chat()])]
    assert statuses == [200, 200]
    assert len(charges(ledger)) == 1


def test_account_short_of_the_longest_refinement_gets_402_before_any_work(
    ledger: CreditLedgerClient,
) -> None:
    spend(ledger, 7)
    response = chats(ledger, never).handle(chat())
    assert (response.status, response.body["error"]) == (402, "INSUFFICIENT_CREDITS")


def test_credits_gone_during_the_work_are_402_and_a_top_up_delivers_it(ledger: CreditLedgerClient) -> None:
    work = Work()

    def slow_work(text: str) -> Any:
        spend(ledger, 8)
        return work(text)

    backend = chats(ledger, slow_work)
    assert backend.handle(chat()).status == 402
    ledger.grant_credits("user-1", 1)
    assert backend.handle(chat()).status == 200
    assert work.times == 1


def test_used_up_limit_gets_429_and_when_to_come_back(ledger: CreditLedgerClient) -> None:
    backend = chats(ledger, Work(tokens=1))
    responses = [backend.handle(chat(f"req-{number}")) for number in range(6)]
    assert [response.status for response in responses] == [200] * 5 + [429]
    assert 0 < int(responses[5].headers["Retry-After"]) <= 86_400


def test_limit_used_up_during_the_work_gets_429_and_when_to_come_back(ledger: CreditLedgerClient) -> None:
    def slow_work(text: str) -> Any:
        ledger.deduct("user-1", "chat_refinement", quantity=5, account_level="free")
        return app.Made(text, tokens=1)

    response = chats(ledger, slow_work).handle(chat())
    assert (response.status, response.body["error"]) == (429, "LIMIT_EXCEEDED")
    assert 0 < int(response.headers["Retry-After"]) <= 86_400


# --- Both


@pytest.mark.parametrize("request_of", [voice, chat])
def test_ledger_out_of_reach_gets_503_before_any_work(request_of: Callable[..., Any]) -> None:
    with CreditLedgerClient("127.0.0.1:1", timeout=0.5) as nowhere:
        response = app.Backend(nowhere, never, never).handle(request_of())
    assert (response.status, response.headers) == (503, {"Retry-After": "1"})


@pytest.mark.parametrize("request_of", [voice, chat])
def test_names_that_the_ledger_does_not_take_get_400(
    ledger: CreditLedgerClient, request_of: Callable[..., Any]
) -> None:
    response = app.Backend(ledger, never, never).handle(request_of(user="no spaces please"))
    assert (response.status, response.body["error"]) == (400, "FIELD_INVALID")


def test_a_voice_is_no_answer_to_a_chat_of_the_same_id(ledger: CreditLedgerClient) -> None:
    backend = app.Backend(ledger, Work(), Work())
    assert [backend.handle(each).status for each in (voice(), chat())] == [200, 500]
    assert [charge.operation for charge in charges(ledger)] == ["voice_creation"]


def test_statuses_are_those_of_the_page_of_errors() -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| `[A-Z_]+` \| (\d+) \|", page, flags=re.MULTILINE))
    assert {reason: int(told[reason]) for reason in app.STATUSES} == app.STATUSES


def test_backend_serves_over_http(server: ServerProcess, ledger: CreditLedgerClient, tmp_path: Path) -> None:
    with running(BACKEND, "--ledger", server.target, "--port", "0") as read_line:
        port = int(read_line().rpartition(":")[2])
        headers = {"X-User": "user-1", "X-Request-Id": "req-1"}
        made = {"text": "A voice called Ada.", "cost": 5, "available": 5}
        for _ in range(2):
            assert post(port, "/voices", headers, b'{"text": "Ada"}') == (200, made)
        refined = {"text": "Refined: shorter", "cost": 2, "available": 3}
        other = headers | {"X-Request-Id": "req-2"}
        for _ in range(2):
            assert post(port, "/chat", other, b'{"text": "shorter"}') == (200, refined)
        assert post(port, "/chat", headers | {"X-Request-Id": "req-3"}, b'{"text": "more"}')[0] == 402
        assert post(port, "/voices", headers | {"X-Request-Id": "req-3"}, b'{"text": "Bea"}')[0] == 429
        pro = {"X-User": "user-pro", "X-Request-Id": "req-1"}
        for path in ("/voices", "/chat"):
            assert post(port, path, pro, b'{"text": "fail"}')[0] == 502
            assert post(port, path, pro, b"no JSON")[0] == 400
            assert post(port, path, {"X-User": "user-pro"}, b'{"text": "Ada"}')[0] == 400
        assert post(port, "/scripts", pro, b'{"text": "Ada"}')[0] == 404
    assert sum(charge.cost for charge in charges(ledger)) == 7


def post(port: int, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
