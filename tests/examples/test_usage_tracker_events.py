"""What the usage tracker's backend tells browsers, over HTTP, from a real ledger."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from creditledger import AsyncCreditLedgerClient, CreditLedgerClient, Usage
from event_streams import changes, events, get_json
from example_programs import load
from ledger_harness import ServerProcess, running_server
from tracker_backend import APP, running_backend


def test_stream_begins_with_the_account_as_it_is(url: str, ledger: CreditLedgerClient) -> None:
    charge = ledger.deduct("user-1", "voice_creation", usage=Usage(service="a-model"))
    with events(url, user="user-1") as stream:
        first = next(stream)
    assert (first.name, first.data["account"], first.data["level"]) == ("snapshot", "user-1", "pro")
    assert first.data["balance"] == {"available": 95, "reserved": 0}
    assert (first.data["revision"], first.data["decimals"]) == (3, 0)
    voices = [limit for limit in first.data["limits"] if limit["operation"] == "voice_creation"]
    assert [(limit["period"], limit["used"], limit["limit"]) for limit in voices] == [("month", 1, 20)]
    assert first.data["recent"][0] == {
        "revision": 3,
        "kind": "deducted",
        "operation": "voice_creation",
        "amount": -5,
        "cost": 5,
        "failed": False,
        "time": charge.entry.create_time.ToJsonString(),
    }
    assert [entry["revision"] for entry in first.data["recent"]] == [3, 2, 1]


def test_change_tells_the_entry_the_balance_and_the_limits_after_it(
    url: str, ledger: CreditLedgerClient
) -> None:
    with events(url, user="user-1") as stream:
        next(stream)
        ledger.deduct("user-1", "voice_creation")
        change = next(event for event in stream if event.name == "change")
    assert change.data["entry"]["revision"] == 3
    assert change.data["balance"] == {"available": 95, "reserved": 0}
    assert [(limit["operation"], limit["used"]) for limit in change.data["limits"]] == [("voice_creation", 1)]


def test_reconnects_with_the_last_event_id_neither_repeat_nor_miss_entries(
    url: str, ledger: CreditLedgerClient
) -> None:
    ledger.grant_credits("user-1", 1_000)
    with events(url, user="user-1") as stream:
        cursor, start = (first := next(stream)).cursor, first.data["revision"]
    last = start + 300
    rng = random.Random(5)
    told: list[int] = []
    writer = threading.Thread(target=lambda: [ledger.deduct("user-1", "chat_refinement") for _ in range(300)])
    writer.start()
    while not told or told[-1] < last:
        with events(url, last_event_id=cursor, user="user-1") as stream:
            for _ in range(rng.randint(1, 60)):
                event = next(stream)
                assert event.name != "snapshot"
                cursor = event.cursor
                if event.name == "change":
                    told.append(event.data["entry"]["revision"])
                if told and told[-1] >= last:
                    break
    writer.join()
    assert told == list(range(start + 1, last + 1))


def test_cursor_resumes_at_another_process_of_the_backend(
    url: str, server: ServerProcess, ledger: CreditLedgerClient
) -> None:
    with events(url, user="user-1") as stream:
        next(stream)
        ledger.deduct("user-1", "chat_refinement")
        cursor = next(event.cursor for event in stream if event.name == "change")
    ledger.deduct("user-1", "chat_refinement")
    with (
        running_backend(server.target) as other,
        events(other, user="user-1", cursor=cursor) as stream,
    ):
        assert changes(stream, until=4) == [4]
        assert next(stream).name == "alive"


def test_stream_goes_on_when_the_ledger_is_killed_and_started_again(dsn: str) -> None:
    with running_server(dsn) as first, CreditLedgerClient(first.target) as ledger:
        ledger.open_account("user-1", level="free")
        ledger.grant_credits("user-1", 10)
        with (
            running_backend(first.target) as url,
            events(url, user="user-1") as stream,
        ):
            next(stream)
            ledger.deduct("user-1", "chat_refinement")
            first.kill()
            with running_server(dsn, "--listen", first.target):
                ledger.deduct("user-1", "chat_refinement", timeout=20)
                assert changes(stream, until=4) == [3, 4]


def test_cursor_of_nobody_begins_anew(url: str) -> None:
    with events(url, last_event_id="made-up", user="user-1") as stream:
        assert next(stream).name == "snapshot"


def test_account_that_is_not_opened_is_told_and_the_stream_ends(url: str) -> None:
    with events(url, user="nobody") as stream:
        assert [(event.name, event.cursor) for event in stream] == [("unopened", "")]


def test_change_of_level_tells_all_limits_of_the_new_one(url: str, ledger: CreditLedgerClient) -> None:
    with events(url, user="user-1") as stream:
        next(stream)
        ledger.update_account("user-1", level="free")
        told = next(event for event in stream if event.name != "alive")
    assert (told.name, told.data["level"]) == ("snapshot", "free")
    assert {limit["operation"]: limit["limit"] for limit in told.data["limits"]}["voice_creation"] == 1


def test_backend_that_stops_ends_its_streams(
    server: ServerProcess, ledger: CreditLedgerClient, capfd: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as held:
        with running_backend(server.target) as url:
            stream = held.enter_context(events(url, user="user-1"))
            assert next(stream).name == "snapshot"
        assert [event.name for event in stream if event.name != "alive"] == []
    assert capfd.readouterr().err == ""


async def test_summary_is_told_as_the_account_stands_now(
    server: ServerProcess, ledger: CreditLedgerClient
) -> None:
    app = load(APP)
    async with (
        AsyncCreditLedgerClient(server.target) as client,
        client.watch_usage("user-1", min_interval=timedelta(seconds=1)) as watch,
    ):
        await anext(watch)
        ledger.deduct("user-1", "voice_creation")
        summary = await anext(watch)
        assert summary.HasField("summary")
        text = await app.event_of(client, "user-1", summary)
    assert text.startswith(f"id: {summary.cursor}\nevent: snapshot\n")
    assert '"revision": 3' in text and '"available": 95' in text


def test_usage_tells_what_each_hour_has_cost(url: str, ledger: CreditLedgerClient) -> None:
    charge = ledger.deduct("user-1", "voice_creation")
    ledger.deduct("user-1", "chat_refinement", quantity=3)
    hour = charge.entry.create_time.ToDatetime(UTC).replace(minute=0, second=0, microsecond=0)
    status, hours = get_json(url, "/usage", user="user-1", since=(hour - timedelta(hours=2)).isoformat())
    assert status == 200
    assert [datetime.fromisoformat(told["start"]) for told in hours][:3] == [
        hour - timedelta(hours=2),
        hour - timedelta(hours=1),
        hour,
    ]
    assert [told["credits"] for told in hours][:2] == [{}, {}]
    # The test may have begun just before an hour ended.
    assert sum(sum(told["credits"].values()) for told in hours) == 8


def test_usage_of_long_ago_is_a_day_at_most(url: str) -> None:
    status, hours = get_json(url, "/usage", user="user-1", since="2020-01-01T00:00:00Z")
    assert (status, len(hours)) == (200, 25)


def test_usage_without_a_time_is_400(url: str) -> None:
    assert get_json(url, "/usage", user="user-1")[0] == 400
    assert get_json(url, "/usage", user="user-1", since="yesterday")[0] == 400
    assert get_json(url, "/usage", user="user-1", since="9999-12-31T23:59:59-23:00")[0] == 400


def test_usage_is_503_while_the_ledger_is_away(url: str, server: ServerProcess) -> None:
    server.kill()
    status, _ = get_json(url, "/usage", user="user-1", since=datetime.now(UTC).isoformat())
    assert status == 503
