"""WatchUsage: every entry, once, in order, and resumable anywhere (contract §6)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import psycopg
import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from creditledger_server.watch.cursor import AllPosition, AllSeen, Cursors
from ledger_calls import (
    FAILED,
    Ledger,
    alterations,
    deduction,
    failure_of,
    kind_name,
    serving,
    unique,
)
from ledger_harness import Postgres, with_database
from ledger_load import await_true, rows
from watch_streams import OFTEN, Watch, connections, entry_of, event_of

GRANTED, DEDUCTED = resources_pb2.ENTRY_KIND_GRANTED, resources_pb2.ENTRY_KIND_DEDUCTED


@pytest.fixture(scope="module")
def ledger(shared_dsn: str) -> Iterator[Ledger]:
    """Calls to a server that sends heartbeats often."""
    with serving(shared_dsn, env=OFTEN) as (_, calls):
        yield calls


Watcher = Callable[[Ledger, str], Watch]
WATCHERS: dict[str, Watcher] = {
    "named accounts": lambda ledger, account: Watch(ledger, account),
    "all accounts": lambda ledger, _account: Watch(ledger),
}


def test_a_snapshot_comes_first_and_then_every_entry(ledger: Ledger, account: str) -> None:
    ledger.deduct(account, "voice_creation")
    standing = ledger.balance(account)

    with Watch(ledger, account) as watch:
        first = watch.next()
        responses: list[Any] = [
            ledger.deduct(account, "voice_creation", quantity=2),
            ledger.deduct(account),
            ledger.grant(account, 5),
        ]
        changes = watch.take(3)

    assert event_of(first) == "snapshot"
    snapshot = first.snapshot
    assert (snapshot.account, snapshot.balance) == (standing.account, standing.balance)
    assert (list(snapshot.limits), snapshot.revision) == (list(standing.limits), 3)
    assert snapshot.HasField("read_time")
    assert [entry_of(message) for message in changes] == [response.entry for response in responses]
    assert list(changes[0].change.limits) == list(responses[0].limits)
    assert [list(message.change.limits) for message in changes[1:]] == [[], []]
    assert len({message.cursor for message in (first, *changes)}) == 4


def test_an_entry_of_each_kind_comes_in_its_place(ledger: Ledger) -> None:
    account = ledger.open(level="free")
    with Watch(ledger, account) as watch:
        watch.next()
        ledger.grant(account, 10)
        ledger.deduct(account, account_level="pro")
        ledger.deduct(account, usage=FAILED)

        assert watch.changes(4) == ledger.entries(account)[1:]


@pytest.mark.parametrize("watcher", WATCHERS.values(), ids=WATCHERS.keys())
def test_refusals_and_replays_are_not_told(ledger: Ledger, account: str, watcher: Watcher) -> None:
    request = deduction(account)
    with watcher(ledger, account) as watch:
        next(watch.stream)
        ledger.call(request)
        ledger.call(request)
        ledger.refused_deduct(account, "voice_creation", quantity=21)
        ledger.can_perform(account)
        ledger.deduct(account)

        assert [entry.revision for entry in watch.changes(2)] == [3, 4]


def test_several_accounts_each_with_a_snapshot_and_all_their_entries(ledger: Ledger) -> None:
    accounts = [ledger.open(credits_=50) for _ in range(3)]
    ledger.deduct(accounts[2])
    with Watch(ledger, *accounts, accounts[0]) as watch:
        snapshots = watch.take(3)
        for number in range(12):
            ledger.deduct(accounts[number % 3])
        ledger.deduct(ledger.open(credits_=1))
        changes = watch.changes(12)

    assert {message.snapshot.account.account_id: message.snapshot.revision for message in snapshots} == {
        accounts[0]: 2, accounts[1]: 2, accounts[2]: 3,
    }  # fmt: skip
    for account, first in zip(accounts, (3, 3, 4), strict=True):
        seen = [entry.revision for entry in changes if entry.account_id == account]
        assert seen == list(range(first, first + 4))


def test_all_accounts_without_a_snapshot_and_with_those_opened_meanwhile(ledger: Ledger) -> None:
    old = ledger.open(credits_=5)
    with Watch(ledger) as watch:
        watch.heartbeat()
        ledger.deduct(old)
        new = ledger.open(credits_=5)
        other = unique("nobody")
        ledger.deduct(other, usage=FAILED, account_level="pro")
        changes = watch.changes(5)

    assert changes == [*ledger.entries(old)[2:], *ledger.entries(new), *ledger.entries(other)]


@pytest.mark.parametrize("watcher", WATCHERS.values(), ids=WATCHERS.keys())
def test_a_cursor_resumes_with_what_was_missed_then_caught_up_once_then_live(
    ledger: Ledger, account: str, watcher: Watcher
) -> None:
    with watcher(ledger, account) as watch:
        next(watch.stream)
        ledger.deduct(account)
        cursor = watch.next().cursor
    for _ in range(3):
        ledger.deduct(account)
    names = [account] if watcher is WATCHERS["named accounts"] else []

    with Watch(ledger, *names, cursor=cursor) as resumed:
        missed = resumed.take(4)
        ledger.deduct(account)
        ledger.deduct(account)
        live = resumed.take(2)
        resumed.heartbeat()
        resumed.heartbeat()

    assert [event_of(message) for message in missed] == ["change"] * 3 + ["caught_up"]
    assert [entry_of(message).revision for message in (*missed[:3], *live)] == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("watcher", WATCHERS.values(), ids=WATCHERS.keys())
def test_every_cursor_of_a_stream_resumes_right_behind_its_message(
    ledger: Ledger, account: str, watcher: Watcher
) -> None:
    names = [account] if watcher is WATCHERS["named accounts"] else []
    with watcher(ledger, account) as watch:
        messages = [next(watch.stream)]
        for number in range(5):
            ledger.deduct(account, account_level="free" if number == 2 else "")
        messages += watch.take(6)
        messages.append(watch.heartbeat())
    last = ledger.revision(account)

    for place, message in enumerate(messages):
        with Watch(ledger, *names, cursor=message.cursor) as resumed:
            expected = list(range(3 + place, last + 1))
            assert [entry.revision for entry in resumed.changes(len(expected))] == expected
            caught_up = resumed.next()
            assert event_of(caught_up) == "caught_up"
        with Watch(ledger, *names, cursor=caught_up.cursor) as again:
            assert event_of(again.next()) == "caught_up"


def test_a_stream_broken_between_its_snapshots_resumes_with_the_others(ledger: Ledger) -> None:
    accounts = sorted(ledger.open(credits_=5) for _ in range(3))
    with Watch(ledger, *accounts) as watch:
        first = watch.next()
    ledger.deduct(first.snapshot.account.account_id)

    with Watch(ledger, *accounts, cursor=first.cursor) as resumed:
        messages = resumed.take(4)

    assert sorted(event_of(message) for message in messages[:3]) == ["change", "snapshot", "snapshot"]
    told = {
        message.snapshot.account.account_id
        for message in (first, *messages)
        if event_of(message) == "snapshot"
    }
    assert told == set(accounts)
    assert event_of(messages[3]) == "caught_up"


def test_caught_up_waits_for_entries_that_a_long_transaction_of_others_holds_up(
    ledger: Ledger, shared_dsn: str, account: str
) -> None:
    with Watch(ledger) as watch:
        cursor = watch.heartbeat().cursor
    with psycopg.connect(shared_dsn) as other:
        other.execute("SELECT pg_current_xact_id()")
        ledger.deduct(account)
        resumed = Watch(ledger, cursor=cursor)
        time.sleep(0.5)  # a chance to say too early that it has caught up

    with resumed:
        assert [event_of(message) for message in resumed.take(2)] == ["change", "caught_up"]


def test_a_cursor_fits_its_accounts_in_any_order(ledger: Ledger) -> None:
    one, two = ledger.open(credits_=5), ledger.open(credits_=5)
    with Watch(ledger, one, two) as watch:
        cursor = watch.take(2)[1].cursor
    ledger.deduct(two)

    with Watch(ledger, two, one, two, cursor=cursor) as resumed:
        assert [event_of(message) for message in resumed.take(2)] == ["change", "caught_up"]


def test_more_than_a_page_that_was_missed_comes_before_caught_up(ledger: Ledger) -> None:
    account = ledger.open(credits_=2_000)
    with Watch(ledger, account) as watch:
        cursor = watch.next().cursor
    for _ in range(2):
        ledger.call(pb.BatchDeductRequest(requests=[deduction(account) for _ in range(505)]))

    with Watch(ledger, account, cursor=cursor) as resumed:
        for revision in range(3, 1_013):
            assert entry_of(resumed.next()).revision == revision
        assert event_of(resumed.next()) == "caught_up"


@pytest.mark.parametrize("missed", [1, 2, 499, 500, 501, 1_000, 1_001])
def test_nothing_is_lost_where_pages_meet(ledger: Ledger, long_watch: dict[int, str], missed: int) -> None:
    last = max(long_watch)

    with Watch(ledger, "long", cursor=long_watch[last - missed]) as resumed:
        revisions = [entry.revision for entry in resumed.changes(missed)]
        assert event_of(resumed.next()) == "caught_up"

    assert revisions == list(range(last - missed + 1, last + 1))


@pytest.fixture(scope="module")
def long_watch(ledger: Ledger) -> dict[int, str]:
    """The cursors of 1,010 entries of the account "long", by revision."""
    ledger.open("long", credits_=2_000)
    with Watch(ledger, "long") as watch:
        watch.next()
        for _ in range(2):
            ledger.call(pb.BatchDeductRequest(requests=[deduction("long") for _ in range(505)]))
        return {entry_of(message).revision: message.cursor for message in watch.take(1_010)}


@pytest.mark.parametrize("watcher", WATCHERS.values(), ids=WATCHERS.keys())
def test_only_the_kinds_asked_for_are_told(ledger: Ledger, watcher: Watcher) -> None:
    account = ledger.open(level="free", credits_=50)
    names = [account] if watcher is WATCHERS["named accounts"] else []
    with Watch(ledger, *names, kinds=[GRANTED, resources_pb2.ENTRY_KIND_LEVEL_CHANGED]) as watch:
        first = next(watch.stream)
        ledger.deduct(account)
        ledger.grant(account, 1)
        ledger.deduct(account, account_level="pro")
        ledger.deduct(account)
        ledger.grant(account, 2)
        changes = watch.changes(3)
        cursor = watch.heartbeat().cursor

    assert event_of(first) == ("snapshot" if names else "heartbeat")
    assert [(kind_name(entry), entry.revision) for entry in changes] == [
        ("GRANTED", 4), ("LEVEL_CHANGED", 5), ("GRANTED", 8),
    ]  # fmt: skip
    with Watch(ledger, *names, cursor=first.cursor, kinds=[DEDUCTED]) as resumed:
        assert [entry.revision for entry in resumed.changes(3)] == [3, 6, 7]
        assert event_of(resumed.next()) == "caught_up"
    with Watch(ledger, *names, cursor=cursor) as resumed:
        assert event_of(resumed.next()) == "caught_up"


@pytest.mark.parametrize("watcher", WATCHERS.values(), ids=WATCHERS.keys())
def test_of_kinds_that_nothing_writes_yet_nothing_is_told(
    ledger: Ledger, account: str, watcher: Watcher
) -> None:
    names = [account] if watcher is WATCHERS["named accounts"] else []
    with Watch(ledger, *names, kinds=[resources_pb2.ENTRY_KIND_RESERVED]) as watch:
        next(watch.stream)
        ledger.deduct(account)

        watch.heartbeat()
        watch.heartbeat()


def test_heartbeats_have_a_cursor_before_which_everything_was_delivered(ledger: Ledger, account: str) -> None:
    with Watch(ledger, account) as watch:
        watch.next()
        first = watch.heartbeat()
        ledger.deduct(account)
        assert [entry.revision for entry in watch.changes(1)] == [3]
        second = watch.heartbeat()
    ledger.deduct(account)

    for cursor, expected in ((first.cursor, [3, 4]), (second.cursor, [4])):
        with Watch(ledger, account, cursor=cursor) as resumed:
            assert [entry.revision for entry in resumed.changes(len(expected))] == expected
            assert event_of(resumed.next()) == "caught_up"


@pytest.mark.parametrize("watcher", WATCHERS.values(), ids=WATCHERS.keys())
def test_entries_of_another_server_process_arrive(
    ledger: Ledger, shared_dsn: str, account: str, watcher: Watcher
) -> None:
    with serving(shared_dsn) as (_, other), watcher(ledger, account) as watch:
        next(watch.stream)
        for server in (other, ledger, other, other, ledger):
            server.deduct(account)
        with_level = other.deduct(account, account_level="free").entry

        changes = watch.changes(7)
        assert [entry.revision for entry in changes] == list(range(3, 10))
        assert changes[-1] == with_level


@pytest.mark.parametrize("watcher", WATCHERS.values(), ids=WATCHERS.keys())
def test_a_cursor_is_good_on_every_server_of_the_ledger(
    ledger: Ledger, shared_dsn: str, account: str, watcher: Watcher
) -> None:
    names = [account] if watcher is WATCHERS["named accounts"] else []
    with watcher(ledger, account) as watch:
        cursor = next(watch.stream).cursor
    with serving(shared_dsn) as (process, other):
        for _ in range(3):
            ledger.deduct(account)
            with Watch(other, *names, cursor=cursor) as resumed:
                changed, caught_up = resumed.take(2)
                assert entry_of(changed).account_id == account
                cursor = caught_up.cursor
        process.kill()

    with Watch(ledger, *names, cursor=cursor) as resumed:
        assert event_of(resumed.next()) == "caught_up"


@pytest.mark.parametrize("watcher", WATCHERS.values(), ids=WATCHERS.keys())
def test_a_cursor_that_was_altered_is_refused(ledger: Ledger, account: str, watcher: Watcher) -> None:
    names = [account] if watcher is WATCHERS["named accounts"] else []
    with watcher(ledger, account) as watch:
        cursor = next(watch.stream).cursor

    for altered in alterations(cursor):
        failure = ledger.refusal(pb.WatchUsageRequest(account_ids=names, cursor=altered))
        assert failure.word == "INVALID_ARGUMENT / CURSOR_INVALID"
        assert list(failure.fields) == ["cursor"]


def test_a_cursor_of_other_accounts_or_another_ledger_is_refused(ledger: Ledger, dsn: str) -> None:
    one, two = ledger.open("cursor-1", credits_=5), ledger.open("cursor-2", credits_=5)
    cursors = {}
    for names in ((one,), (two,), (one, two), ()):
        with Watch(ledger, *names) as watch:
            cursors[names] = next(watch.stream).cursor

    for names in cursors:
        for others, cursor in cursors.items():
            if others != names:
                failure = ledger.refusal(pb.WatchUsageRequest(account_ids=names, cursor=cursor))
                assert failure.word == "INVALID_ARGUMENT / CURSOR_INVALID"
    with serving(dsn) as (_, stranger):
        stranger.open(one)
        for names in ((one,), ()):
            request = pb.WatchUsageRequest(account_ids=names, cursor=cursors[names])
            assert stranger.refusal(request).word == "INVALID_ARGUMENT / CURSOR_INVALID"


def test_a_page_token_is_no_cursor(ledger: Ledger, account: str) -> None:
    token = ledger.call(pb.ListEntriesRequest(account_id=account, page_size=1)).next_page_token

    for names in ([account], []):
        failure = ledger.refusal(pb.WatchUsageRequest(account_ids=names, cursor=token))
        assert failure.reason == "CURSOR_INVALID"


def test_an_unknown_account_is_not_found(ledger: Ledger, account: str, nobody: str) -> None:
    failure = ledger.refusal(pb.WatchUsageRequest(account_ids=[account, nobody]))

    assert failure.word == "NOT_FOUND / ACCOUNT_NOT_FOUND"
    assert failure.metadata["accountId"] == nobody


def test_a_cursor_ahead_of_a_ledger_restored_from_a_backup_is_refused(postgres: Postgres, dsn: str) -> None:
    with serving(dsn) as (process, ledger):
        ledger.open("account", credits_=9)
        assert process.stop() == 0
    backup = "backup_of_" + urlsplit(dsn).path[1:]
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {backup} TEMPLATE {urlsplit(dsn).path[1:]}")
    restored = with_database(postgres.dsn, backup)
    try:
        with serving(dsn) as (_, ledger), Watch(ledger, "account") as watch:
            before = watch.next().cursor
            ledger.deduct("account")
            after = watch.next().cursor

        with serving(restored) as (_, ledger):
            with Watch(ledger, "account", cursor=before) as watch:
                assert event_of(watch.next()) == "caught_up"
            failure = ledger.refusal(pb.WatchUsageRequest(account_ids=["account"], cursor=after))
            assert failure.word == "OUT_OF_RANGE / CURSOR_AHEAD"
    finally:
        postgres.drop_database(restored)


def test_a_cursor_of_all_accounts_that_is_ahead_is_refused(ledger: Ledger, shared_dsn: str) -> None:
    [(key,)] = rows(shared_dsn, "SELECT cursor_key FROM ledger")

    cursor = Cursors(bytes(key)).of_all(AllSeen(AllPosition(2**62)))

    failure = ledger.refusal(pb.WatchUsageRequest(cursor=cursor))
    assert failure.word == "OUT_OF_RANGE / CURSOR_AHEAD"


def test_cancelled_and_vanished_clients_leave_nothing_behind(dsn: str) -> None:
    with serving(dsn, env=OFTEN) as (process, ledger):
        account = ledger.open(credits_=500)
        ledger.deduct(account)
        ledger.can_perform(account)
        open_files = Path(f"/proc/{process.process.pid}/fd")
        before = connections(dsn), len(list(open_files.iterdir()))
        for _ in range(3):
            with Ledger(process.target) as vanishing:
                watches = [Watch(vanishing, account) for _ in range(30)] + [
                    Watch(vanishing) for _ in range(30)
                ]
                for watch in watches:
                    next(watch.stream)
                ledger.deduct(account)
                for watch in watches[::2]:
                    watch.stream.cancel()
        with Watch(ledger, account) as watch:
            watch.next()
            ledger.deduct(account)
            watch.changes(1)

        await_true(lambda: (connections(dsn), len(list(open_files.iterdir()))) <= before)
        assert process.stop() == 0
        assert not re.search("incident|Traceback", process.log()), process.log()


def test_sigterm_ends_streams_with_shutting_down_and_the_server_with_0(dsn: str) -> None:
    with serving(dsn) as (process, ledger):
        account = ledger.open(credits_=5)
        with Watch(ledger, account) as named, Watch(ledger) as everything:
            cursors = [next(watch.stream).cursor for watch in (named, everything)]
            assert process.stop() == 0

            for watch in (named, everything):
                failure = failure_of(watch.end())
                assert failure.word == "UNAVAILABLE / SHUTTING_DOWN"
                assert failure.kinds == {"RetryInfo"}
    with serving(dsn) as (_, ledger):
        for names, cursor in (([account], cursors[0]), ([], cursors[1])):
            with Watch(ledger, *names, cursor=cursor) as resumed:
                assert event_of(resumed.next()) == "caught_up"


def test_kill_9_of_the_server_loses_no_entry_of_a_resumed_stream(dsn: str) -> None:
    with serving(dsn) as (process, ledger):
        account = ledger.open(credits_=50)
        with Watch(ledger, account) as watch:
            cursor = watch.next().cursor
            for _ in range(5):
                ledger.deduct(account)
            process.kill()
            with pytest.raises(grpc.RpcError):
                while True:
                    cursor = watch.next().cursor
    with serving(dsn) as (_, ledger):
        last = ledger.deduct(account).entry.revision
        with Watch(ledger, account, cursor=cursor) as resumed:
            seen = []
            while event_of(message := resumed.next()) == "change":
                seen.append(entry_of(message).revision)

    assert last == 8
    assert seen == list(range(seen[0], 9))


def test_a_reader_that_does_not_read_does_not_slow_others(ledger: Ledger, account: str) -> None:
    with Watch(ledger, account), Watch(ledger, account) as reader:
        reader.next()
        for _ in range(50):
            ledger.deduct(account)

        assert [entry.revision for entry in reader.changes(50)] == list(range(3, 53))


def test_watchers_tell_what_verification_confirms(ledger: Ledger, account: str) -> None:
    with Watch(ledger, account) as watch:
        watch.next()
        ledger.deduct(account)
        [entry] = watch.changes(1)

    answer = ledger.call(admin_pb.VerifyAccountRequest(account_id=account))
    assert (answer.valid, answer.head_hash) == (True, entry.hash)
