"""The rows of `make bench-watch`: what is watched, and what is put under load meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import grpc
import psutil
from creditledger.v1.credit_ledger_pb2 import DeductRequest, WatchUsageRequest
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub

from . import generators, seed
from .delivery import Streams
from .ghz import MISSING, Ghz
from .ghz import available as ghz_available
from .row import Row
from .sample import Sample, account_name
from .site import OPERATION, BenchError, Say, Server, Site, serving, started
from .watchers import WINDOW, Delivered

LEDGER = "ledger"
BUSY = 500  # deductions per second
IDLE = 5
_STEADY_SECONDS = 1.0  # from the last stream opened or closed to a look at the memory


class Sizes(NamedTuple):
    """How many accounts there are and how many streams are open; ``scale`` is the share of the figures' own sizes."""

    accounts: int
    streams: int
    memory: int
    steps: Sequence[int]

    @classmethod
    def of(cls, scale: float) -> Sizes:
        """The sizes at this scale."""
        [accounts, streams, memory, *steps] = [
            max(2, int(scale * size)) for size in (10_000, 1_000, 2_000, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000)
        ]  # fmt: skip
        return cls(accounts, streams, memory, steps)


class Rows(NamedTuple):
    """``rounds`` take turns; ``once`` is measured at the end: it says how many, and that has no spread."""

    rounds: list[Row]
    once: list[Row]


@contextmanager
def prepared(site: Site, sizes: Sizes, say: Say) -> Iterator[Rows]:
    """All rows that can be had, with their servers running for as long as the block lasts."""
    with ExitStack() as stack:
        load = stack.enter_context(generators.process_pool())
        streams = Streams(site, LEDGER, stack.enter_context(generators.process_pool()))
        seed.create_ledger(site, LEDGER, (sizes.accounts, 0))
        command = serving(site.database(LEDGER))
        near, far = stack.enter_context(started(command)), stack.enter_context(started(command))
        echo = stack.enter_context(started(_echo_command(site, near.target)))
        rows = [
            *_lag_rows(near, far, streams, load, sizes),
            *_fan_out_rows(near, echo, streams, sizes),
            *_cost_rows(site, near, streams, sizes, say),
            Row("watch_memory", f"memory of an idle stream, of {sizes.memory:,}", sizes.memory,
                lambda _count: _memory(site, streams, range(sizes.memory)), LEDGER, unit=" kB"),
        ]  # fmt: skip
        most = Row(
            "watch_streams", "streams that one process held open and that all received", sizes.steps[0],
            lambda _count: _most_streams(site, streams, load, sizes.steps), LEDGER, unit="",
        )  # fmt: skip
        yield Rows(rows, [most])


def _lag_rows(near: Server, far: Server, streams: Streams, load: Executor, sizes: Sizes) -> list[Row]:
    accounts = range(sizes.streams)

    def row(name: str, meaning: str, percent: int, per_second: int) -> Row:
        lag = partial(_lag, near.target, streams, load, accounts, percent, per_second)
        around = partial(streams.opened, far.target, accounts)
        return Row(name, meaning, per_second, lag, LEDGER, far, unit="ms", around=around)

    watched = f"{len(accounts):,} streams on as many accounts, on another server than the deductions"
    return [
        row("watch_lag", f"p99 from OK to a watcher, {BUSY} deductions per second; {watched}", 99, BUSY),
        row("watch_lag_idle", f"p50 of the same with {IDLE} deductions per second", 50, IDLE),
    ]


def _lag(
    target: str, streams: Streams, load: Executor, accounts: range, percent: int, per_second: int, calls: int
) -> Sample:
    """Milliseconds from a deduction's OK, as its caller got it, to the message, as its watcher got it.

    Both processes read the same monotonic clock, each behind its own event loop. Who gets it before the OK counts as 0.
    """
    paced = load.submit(generators.paced_calls, target, accounts, calls, per_second).result()
    delivered, wrong = streams.settled()
    lags = list(_lags(paced.acknowledged, delivered))
    return Sample(
        calls, paced.seconds, paced.cpu_seconds, percentile(lags, percent), written=calls, mismatches=wrong,
        details={f"p{share} ms": percentile(lags, share) for share in (50, 90, 100)},
    )  # fmt: skip


def _lags(acknowledged: Sequence[tuple[str, int, float]], delivered: Sequence[Delivered]) -> Iterator[float]:
    arrived = {
        (stream.account_id, revision): told.at
        for stream in delivered
        for told in stream.told
        for revision in range(told.first, told.last + 1)
    }
    for account_id, revision, at in acknowledged:
        if (account_id, revision) in arrived:  # else the stream is counted as wrong
            yield max(0.0, 1_000 * (arrived[account_id, revision] - at))


def percentile(values: Sequence[float], percent: int) -> float:
    """The least value that so many percent of the values do not exceed; 0 without values."""
    if not values:
        return 0.0
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def _fan_out_rows(server: Server, echo: Server, streams: Streams, sizes: Sizes) -> list[Row]:
    account = sizes.streams

    def row(name: str, meaning: str, sender: Server) -> Row:
        fan_out = partial(_fan_out, sender.target, streams, account, sizes.streams, sender is server)
        around = partial(streams.opened, sender.target, [account] * sizes.streams)
        return Row(name, meaning, 10_000, fan_out, LEDGER, sender, around=around)

    return [
        row("watch_fanout", f"entries of one account to {sizes.streams:,} streams", server),
        row("watch_echo", "the same bytes to as many streams of a bare grpc.aio server", echo),
    ]


def _fan_out(
    target: str, streams: Streams, account: int, readers: int, is_ledger: bool, count: int
) -> Sample:
    """Messages to all streams together, until the last one has come. There is nothing to compare an echo's with."""
    entries = max(count // readers, 2 * WINDOW)
    begin, cpu_seconds = streams.fanned_out(target, account, entries)
    delivered, wrong = streams.settled() if is_ledger else (streams.delivered(), 0)
    times = [told.at for stream in delivered for told in stream.told]
    written = entries if is_ledger else 0
    return Sample(len(times), max(times) - begin, cpu_seconds, written=written, mismatches=wrong)


def _cost_rows(site: Site, server: Server, streams: Streams, sizes: Sizes, say: Say) -> list[Row]:
    if not ghz_available():
        say(f"rows without result: {MISSING}")
        return []
    watched = range(sizes.accounts - sizes.streams, sizes.accounts)
    load = Ghz(site.folder, server.target, "Deduct", range(watched.start))

    def watched_load(count: int) -> Sample:
        return load(count)._replace(mismatches=streams.settled()[1])

    meaning = "Deduct, 64 in flight, ghz"
    around = partial(streams.opened, server.target, watched)
    return [
        Row("unary_unwatched", meaning, 2_000, load, LEDGER, server, writes=True),
        Row("unary_watched", f"{meaning}, {len(watched):,} streams on other accounts", 2_000, watched_load,
            LEDGER, server, writes=True, around=around),
    ]  # fmt: skip


def _memory(site: Site, streams: Streams, accounts: range) -> Sample:
    """Kilobytes (1,000 bytes) by which the resident memory of a new server grows, by stream; nothing is deducted.

    Some streams come and go before, so that what the first ones cost once is not counted.
    """
    begin = time.monotonic()
    with started(serving(site.database(LEDGER))) as server:
        process = psutil.Process(server.process.pid)
        with streams.opened(server.target, accounts[: len(accounts) // 10]):
            pass
        time.sleep(_STEADY_SECONDS)
        before = process.memory_info().rss
        with streams.opened(server.target, accounts):
            time.sleep(_STEADY_SECONDS)
            grown = process.memory_info().rss - before
            _, wrong = streams.settled()
    seconds = time.monotonic() - begin
    return Sample(len(accounts), seconds, 0, grown / len(accounts) / 1_000, written=0, mismatches=wrong)


def _most_streams(site: Site, streams: Streams, load: Executor, steps: Sequence[int]) -> Sample:
    """Opens more and more streams, each on an account of its own, that each must get the entry of its account.

    The figure is the last step that came out well; what went wrong after it is no mismatch, but the end.
    """
    begin, held, written, last = time.monotonic(), 0, 0, 0.0
    with started(serving(site.database(LEDGER))) as server, streams.opened(server.target, ()):
        for step in steps:
            try:
                streams.add(server.target, range(held, step))
            except BenchError:
                break
            sent = time.monotonic()
            written += load.submit(generators.one_each, server.target, range(step)).result()
            delivered, wrong = streams.settled()
            if wrong:
                break
            held, last = step, max(told.at for stream in delivered for told in stream.told) - sent
    seconds = time.monotonic() - begin
    return Sample(max(written, 1), seconds, 0, held, written=written, details={"all had it after s": last})


def _echo_command(site: Site, ledger: str) -> list[str]:
    """The echo of streams, with messages that the ledger sent."""
    account = account_name(0)
    with grpc.insecure_channel(ledger) as channel:
        stub = CreditLedgerStub(channel)
        watch = stub.WatchUsage(WatchUsageRequest(account_ids=[account]), timeout=60)
        snapshot = next(watch)
        deducted = stub.Deduct(DeductRequest(request_id="echo" * 8, account_id=account, operation=OPERATION))
        change = next(message for message in watch if message.HasField("change"))
        watch.cancel()
    command = [sys.executable, "-m", "benchmarks.stream_echo"]
    for name, message in {"deducted": deducted, "snapshot": snapshot, "change": change}.items():
        file = site.folder / f"stream-{name}.bin"
        file.write_bytes(message.SerializeToString())
        command.append(str(file))
    return command
