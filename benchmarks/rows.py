"""The rows of `make bench`: what is put under load, round after round."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import grpc
from creditledger import AsyncCreditLedgerClient
from creditledger.v1.credit_ledger_pb2 import CanPerformRequest, DeductRequest
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub

from . import features, generators, replay, seed, textbook
from .ghz import MISSING, Ghz
from .ghz import available as ghz_available
from .row import Load, Row
from .sample import Sample, random_account
from .site import OPERATION, Say, Server, Site, knows_workers, serving, started

ACCOUNTS = 10_000
_MANY = range(ACCOUNTS)
_ONE = range(1)
_LOADED = range(ACCOUNTS, ACCOUNTS + 1)
LEDGER = "ledger"
FEATURES = "features"
SEEDED = "seeded"
TEXTBOOK = "textbook"


@contextmanager
def prepared(site: Site, wanted: set[str], say: Say) -> Iterator[list[Row]]:
    """The rows of these names that can be had, with their servers running for as long as the block lasts."""
    with ExitStack() as stack:
        load = stack.enter_context(generators.process_pool())
        seed.create_ledger(site, SEEDED, (ACCOUNTS, 0))
        site.create(LEDGER, SEEDED)
        ledger = stack.enter_context(started(serving(site.database(LEDGER))))
        rows = [
            *_ledger_rows(site, ledger, load),
            *_client_rows(ledger, load, say),
            *_textbook_rows(site, load),
        ]
        if any(name.endswith(("_features", "_loaded")) for name in wanted):
            site.create(FEATURES)
            command = serving(site.database(FEATURES), catalog=features.CATALOG)
            in_use = stack.enter_context(started(command))
            load.submit(features.fill, in_use.target, _MANY, ACCOUNTS).result()
            rows += _feature_rows(site, in_use, load)
        if wanted & {"unary_echo", "can_perform_echo", "lone_echo"}:
            echo = stack.enter_context(started(_echo_command(site, ledger.target)))
            rows += _echo_rows(site, echo, load)
        if wanted & {"unary_workers_2", "batch_workers_2"} and knows_workers():
            pair = stack.enter_context(started(serving(site.database(LEDGER), "--workers", "2")))
            rows += _pair_rows(site, pair, load)
        if "postgres" in wanted:
            rows.append(_postgres_row(site, load))
        if not ghz_available():
            say(f"rows without result: {MISSING}")
            rows = [row for row in rows if not isinstance(row.load, Ghz)]
        by_name = {row.name: row for row in rows}
        yield [by_name[name] for name in _ORDER if name in wanted & by_name.keys()]


_ORDER = (
    "unary", "unary_echo", "can_perform", "can_perform_echo", "batch", "textbook", "textbook_features", "postgres",
    "batch_hot", "textbook_hot", "client_256_batching", "client_256", "client_64_batching", "client_64",
    "lone", "lone_echo", "lone_textbook", "unary_features", "can_perform_features", "batch_features",
    "batch_loaded", "lone_features", "lone_loaded", "unary_workers_2", "batch_workers_2",
)  # fmt: skip


def _ledger_rows(site: Site, server: Server, load: Executor) -> list[Row]:
    target = server.target
    return [
        Row("unary", "Deduct, 64 in flight, ghz", 2_000,
            Ghz(site.folder, target, "Deduct", _MANY), LEDGER, server, writes=True),
        Row("can_perform", "CanPerform, 64 in flight, ghz", 3_000,
            Ghz(site.folder, target, "CanPerform", _MANY), LEDGER, server),
        Row("batch", "BatchDeduct of 100, 8 in flight, 10,000 accounts", 15_000,
            apart(load, generators.batches, target, _MANY), LEDGER, server, writes=True),
        Row("batch_hot", "BatchDeduct of 100, 8 in flight, one account", 20_000,
            apart(load, generators.batches, target, _ONE), LEDGER, server, writes=True),
        Row("lone", "a lone Deduct", 300,
            apart(load, generators.lone_calls, target, _MANY), LEDGER, server, writes=True, unit="ms"),
    ]  # fmt: skip


def _echo_rows(site: Site, server: Server, load: Executor) -> list[Row]:
    target = server.target
    return [
        Row("unary_echo", "echo of Deduct, 64 in flight, ghz", 4_000,
            Ghz(site.folder, target, "Deduct", _MANY), LEDGER, server),
        Row("can_perform_echo", "echo of CanPerform, 64 in flight, ghz", 4_000,
            Ghz(site.folder, target, "CanPerform", _MANY), LEDGER, server),
        Row("lone_echo", "a lone echo", 1_000,
            apart(load, generators.lone_calls, target, _MANY), LEDGER, server, unit="ms"),
    ]  # fmt: skip


def _feature_rows(site: Site, server: Server, load: Executor) -> list[Row]:
    target = server.target
    return [
        Row("unary_features", "Deduct, 64 in flight, ghz, features in use", 2_000,
            Ghz(site.folder, target, "Deduct", _MANY), FEATURES, server, writes=True),
        Row("can_perform_features", "CanPerform, 64 in flight, ghz, features in use", 3_000,
            Ghz(site.folder, target, "CanPerform", _MANY), FEATURES, server),
        Row("batch_features", "BatchDeduct of 100, 8 in flight, 10,000 accounts, features in use", 10_000,
            apart(load, generators.batches, target, _MANY), FEATURES, server, writes=True),
        Row("batch_loaded", "BatchDeduct of 100, 8 in flight, on 100 grants and 1,000 reservations", 10_000,
            apart(load, generators.batches, target, _LOADED), FEATURES, server, writes=True),
        Row("lone_features", "a lone Deduct, features in use", 300,
            apart(load, generators.lone_calls, target, _MANY), FEATURES, server, writes=True, unit="ms"),
        Row("lone_loaded", "a lone Deduct on 100 grants and 1,000 reservations", 300,
            apart(load, generators.lone_calls, target, _LOADED), FEATURES, server, writes=True, unit="ms"),
    ]  # fmt: skip


def _pair_rows(site: Site, server: Server, load: Executor) -> list[Row]:
    target = server.target
    return [
        Row("unary_workers_2", "Deduct, 64 in flight, ghz, 2 workers", 2_000,
            Ghz(site.folder, target, "Deduct", _MANY), LEDGER, server, writes=True),
        Row("batch_workers_2", "BatchDeduct of 100, 8 in flight, 2 workers", 15_000,
            apart(load, generators.batches, target, _MANY), LEDGER, server, writes=True),
    ]  # fmt: skip


def _client_rows(server: Server, load: Executor, say: Say) -> list[Row]:
    def row(callers: int, suffix: str, **options: Any) -> Row:
        calls = partial(generators.client_calls, server.target, _MANY, callers, **options)
        meaning = f"{callers} concurrent deduct() of the asyncio client{', batching' if options else ''}"
        return Row(
            f"client_{callers}{suffix}", meaning, 2_000, apart(load, calls), LEDGER, server, writes=True
        )

    rows = [row(callers, "") for callers in (256, 64)]
    if "batching" in inspect.signature(AsyncCreditLedgerClient.__init__).parameters:
        return rows + [row(callers, "_batching", batching=True) for callers in (256, 64)]
    say("rows without result: this client does not know batching=True")
    return rows


def _textbook_rows(site: Site, load: Executor) -> list[Row]:
    dsn = textbook.create(site, TEXTBOOK, ACCOUNTS)
    return [
        Row("textbook", "a transaction per deduction, 8 connections, 10,000 accounts", 2_000,
            apart(load, textbook.deductions, dsn, _MANY), LEDGER),
        Row("textbook_features", "the same with limits and grants in use", 1_000,
            apart(load, partial(textbook.deductions, features=True), dsn, _MANY), LEDGER),
        Row("textbook_hot", "a transaction per deduction, 8 connections, one account", 1_000,
            apart(load, textbook.deductions, dsn, _ONE), LEDGER),
        Row("lone_textbook", "a lone textbook transaction", 1_000,
            apart(load, textbook.lone_deductions, dsn, _MANY), LEDGER, unit="ms"),
    ]  # fmt: skip


def _postgres_row(site: Site, load: Executor) -> Row:
    replayed = asyncio.run(replay.record(site, SEEDED, _MANY, replay.DEDUCTIONS, load))
    return Row("postgres", "the statements of BatchDeduct alone, by pgbench", 1, replayed, LEDGER)


def apart(load: Executor, function: Callable[..., Sample], *arguments: Any) -> Load:
    """The load, out of this process."""
    return lambda count: load.submit(function, *arguments, count).result()


def _echo_command(site: Site, ledger: str) -> list[str]:
    """The echo, with answers that the ledger gave."""
    account = random_account(_MANY)
    with grpc.insecure_channel(ledger) as channel:
        stub = CreditLedgerStub(channel)
        deducted = stub.Deduct(DeductRequest(request_id="echo" * 8, account_id=account, operation=OPERATION))
        checked = stub.CanPerform(CanPerformRequest(account_id=account, operation=OPERATION))
    files = [site.folder / "deducted.bin", site.folder / "checked.bin"]
    files[0].write_bytes(deducted.SerializeToString())
    files[1].write_bytes(checked.SerializeToString())
    return [sys.executable, "-m", "benchmarks.echo", *map(str, files)]
