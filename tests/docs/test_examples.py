"""The examples, against a real server."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Barrier, Thread
from typing import Any

import pytest
from creditledger import CreditLedgerClient, Entry, EntryKind, Unavailable, Usage
from ledger_harness import ROOT, ServerProcess

BACKEND = ROOT / "examples/backend/app.py"
WATCHER = ROOT / "examples/usage_watcher.py"


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


app = _load(BACKEND)


class Work:
    """Work that counts how often it was done, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.times = 0
        self._failures = failures

    def __call__(self, topic: str) -> Any:
        self.times += 1
        if self.times <= self._failures:
            raise ConnectionError("the model did not answer")
        return app.Draft(f"about {topic}", tokens=7)


class AnswerLost:
    """A client whose first charge is carried out and its answer lost."""

    def __init__(self, ledger: CreditLedgerClient) -> None:
        self._ledger = ledger
        self._lost = False

    def deduct(self, **charge: Any) -> Any:
        response = self._ledger.deduct(**charge)
        if not self._lost:
            self._lost = True
            raise Unavailable("connection reset")
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


def _request(request_id: str = "req-1", user: str = "user-1") -> Any:
    return app.Request(request_id=request_id, user=user, topic="credits")


def _charges(ledger: CreditLedgerClient, user: str = "user-1") -> list[Entry]:
    return list(ledger.list_entries(user, kinds=[EntryKind.ENTRY_KIND_DEDUCTED]).entries)


@pytest.fixture
def rich(ledger: CreditLedgerClient) -> CreditLedgerClient:
    """The client, with 10 credits for user-1."""
    ledger.open_account("user-1", level="free")
    ledger.grant_credits("user-1", 10)
    return ledger


def test_work_that_succeeded_is_charged_with_its_usage(rich: CreditLedgerClient) -> None:
    response = app.Backend(rich, Work()).handle(_request())
    assert (response.status, response.body) == (200, {"text": "about credits", "cost": 1, "available": 9})
    [charge] = _charges(rich)
    assert (charge.cost, charge.request_id, charge.usage.service) == (1, "req-1", "example-model")
    assert dict(charge.usage.metrics) == {"tokens": 7}
    assert dict(charge.usage.metadata) == {"inputLength": 7, "outputLength": 13}
    assert charge.usage.HasField("response_time")


def test_work_that_failed_is_recorded_and_free_and_its_retry_is_charged(rich: CreditLedgerClient) -> None:
    backend = app.Backend(rich, Work(failures=1))
    assert backend.handle(_request()).status == 502
    [attempt] = _charges(rich)
    assert (attempt.cost, attempt.usage.outcome) == (0, Usage.OUTCOME_FAILED)
    assert backend.handle(_request()).status == 200
    assert [charge.cost for charge in _charges(rich)] == [1, 0]


def test_retry_gets_the_same_answer_and_is_neither_charged_nor_worked_for_again(
    rich: CreditLedgerClient,
) -> None:
    work = Work()
    backend = app.Backend(rich, work)
    first = backend.handle(_request())
    assert backend.handle(_request()) == first
    assert (len(_charges(rich)), work.times) == (1, 1)


def test_retry_after_a_lost_answer_is_charged_once(rich: CreditLedgerClient) -> None:
    work = Work()
    backend = app.Backend(AnswerLost(rich), work)
    lost = backend.handle(_request())
    assert (lost.status, lost.headers) == (503, {"Retry-After": "1"})
    assert backend.handle(_request()).body["available"] == 9
    assert (len(_charges(rich)), work.times) == (1, 1)


def test_retry_with_the_last_credit_spent_is_answered_not_denied(ledger: CreditLedgerClient) -> None:
    ledger.open_account("user-1", level="free")
    ledger.grant_credits("user-1", 1)
    backend = app.Backend(AnswerLost(ledger), Work())
    assert [backend.handle(_request()).status for _ in range(3)] == [503, 200, 200]
    assert len(_charges(ledger)) == 1


def test_same_request_twice_at_once_is_charged_once(rich: CreditLedgerClient) -> None:
    together = Barrier(2, timeout=10)

    def work(topic: str) -> Any:
        together.wait()
        return app.Draft(topic, tokens=1)

    backend = app.Backend(rich, work)
    with ThreadPoolExecutor(2) as pool:
        statuses = [each.status for each in pool.map(backend.handle, [_request(), _request()])]
    assert statuses == [200, 200]
    assert len(_charges(rich)) == 1


def test_short_account_gets_402_before_any_work(ledger: CreditLedgerClient) -> None:
    ledger.open_account("user-1", level="free")
    work = Work()
    response = app.Backend(ledger, work).handle(_request())
    assert (response.status, response.body["error"], work.times) == (402, "INSUFFICIENT_CREDITS", 0)


def test_credits_gone_during_the_work_are_402_and_a_top_up_delivers_it(ledger: CreditLedgerClient) -> None:
    ledger.open_account("user-1", level="free")
    ledger.grant_credits("user-1", 1)
    work = Work()

    def slow_work(topic: str) -> Any:
        ledger.deduct("user-1", "chat_refinement")
        return work(topic)

    backend = app.Backend(ledger, slow_work)
    assert backend.handle(_request()).status == 402
    ledger.grant_credits("user-1", 1)
    assert backend.handle(_request()).status == 200
    assert work.times == 1


def test_used_up_limit_gets_429_and_when_to_come_back(rich: CreditLedgerClient) -> None:
    backend = app.Backend(rich, Work())
    responses = [backend.handle(_request(f"req-{number}")) for number in range(4)]
    assert [response.status for response in responses] == [200, 200, 200, 429]
    assert 0 < int(responses[3].headers["Retry-After"]) <= 31 * 86_400


def test_limit_used_up_during_the_work_gets_429_and_when_to_come_back(rich: CreditLedgerClient) -> None:
    def slow_work(topic: str) -> Any:
        rich.deduct("user-1", "script_generation", quantity=3)
        return app.Draft(topic, tokens=1)

    response = app.Backend(rich, slow_work).handle(_request())
    assert (response.status, response.body["error"]) == (429, "LIMIT_EXCEEDED")
    assert 0 < int(response.headers["Retry-After"]) <= 31 * 86_400


def test_ledger_out_of_reach_gets_503_before_any_work() -> None:
    work = Work()
    with CreditLedgerClient("127.0.0.1:1", timeout=0.5) as nowhere:
        response = app.Backend(nowhere, work).handle(_request())
    assert (response.status, response.headers, work.times) == (503, {"Retry-After": "1"}, 0)


def test_names_that_the_ledger_does_not_take_get_400(rich: CreditLedgerClient) -> None:
    response = app.Backend(rich, Work()).handle(_request(user="no spaces please"))
    assert (response.status, response.body["error"]) == (400, "FIELD_INVALID")


def test_backend_serves_over_http(server: ServerProcess, ledger: CreditLedgerClient) -> None:
    ledger.open_account("user-1", level="free")
    ledger.grant_credits("user-1", 10)
    with _running(BACKEND, "--ledger", server.target, "--port", "0") as read_line:
        port = int(read_line().rpartition(":")[2])
        headers = {"X-User": "user-1", "X-Request-Id": "req-1"}
        paid = {"text": "A script about credits.", "cost": 1, "available": 9}
        assert _post(port, headers, b'{"topic": "credits"}') == (200, paid)
        assert _post(port, headers, b'{"topic": "credits"}') == (200, paid)
        assert _post(port, headers | {"X-Request-Id": "req-2"}, b'{"topic": "fail"}')[0] == 502
        assert _post(port, headers, b"no JSON")[0] == 400
        assert _post(port, {"X-User": "user-1"}, b'{"topic": "credits"}')[0] == 400
    assert sum(charge.cost for charge in _charges(ledger)) == 1


def test_watcher_shows_the_balance_and_changes_and_goes_on_where_it_was_stopped(
    server: ServerProcess, rich: CreditLedgerClient, tmp_path: Path
) -> None:
    cursor_file = tmp_path / "user-1.cursor"
    arguments = (WATCHER, "user-1", "--ledger", server.target, "--cursor-file", str(cursor_file))
    with _running(*arguments) as read_line:
        assert read_line() == "balance: 10 at revision 2"
        rich.deduct("user-1", "voice_creation")
        assert read_line() == "revision 3: deducted voice_creation -5, balance: 5"
        rich.deduct("user-1", "chat_refinement", usage=Usage(outcome=Usage.OUTCOME_FAILED))
        assert read_line() == "revision 4: deducted chat_refinement (failed) +0, balance: 5"
    rich.grant_credits("user-1", 7)
    with _running(*arguments) as read_line:
        assert _last_of(read_line, "caught up") == "revision 5: granted +7, balance: 12"
        rich.deduct("user-1", "chat_refinement")
        assert read_line() == "revision 6: deducted chat_refinement -1, balance: 11"


def test_watcher_begins_anew_with_a_cursor_that_is_not_its_own(
    server: ServerProcess, rich: CreditLedgerClient, tmp_path: Path
) -> None:
    cursor_file = tmp_path / "cursor"
    cursor_file.write_text("made-up")
    with _running(
        WATCHER, "user-1", "--ledger", server.target, "--cursor-file", str(cursor_file)
    ) as read_line:
        assert read_line().startswith("starting anew: CURSOR_INVALID: ")
        assert read_line() == "balance: 10 at revision 2"


def _last_of(read_line: Callable[[], str], end: str) -> str:
    """The line before ``end``. A watcher may show again what it showed just before it was stopped."""
    line = ""
    while (following := read_line()) != end:
        line = following
    return line


def _post(port: int, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/scripts", body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@contextmanager
def _running(program: Path, *arguments: str) -> Iterator[Callable[[], str]]:
    """Runs a program until the end of the block, where Ctrl-C must end it; yields what reads its next line."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, str(program), *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    lines: Queue[str] = Queue()
    reader = Thread(target=_read_lines, args=(process, lines))
    reader.start()
    try:
        yield lambda: lines.get(timeout=20)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read_lines(process: subprocess.Popen[str], lines: Queue[str]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line.rstrip("\n"))
