"""Tells Prometheus what this process counts, on a port of its own.

The HTTP server is prometheus-client's, in a thread. The numbers are read on the event loop, where they are counted, so
that they fit together. No label has more values than the protos have names: there is none for accounts, levels or
operations, of which there may be any number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ..config import split_address
from ..domain.refusal import Reason
from ..ledger.counts import Distribution, WriteCounts
from ..ledger.ledger import Ledger
from ..ledger.start import StartupError
from ..storage.connect import Database, PoolUsage
from .counts import AnswerCounts, CallCounts
from .health import Health

_PATIENCE = 5.0
"""Seconds that a scrape waits for the event loop."""

_DEDUCT = "/creditledger.v1.CreditLedger/Deduct"

Labels = tuple[str, ...]


class Sources(NamedTuple):
    """Where the numbers are. ``pools`` by what they are for."""

    ledger: Ledger
    calls: CallCounts
    answers: AnswerCounts
    health: Health
    pools: Mapping[str, Database]


@asynccontextmanager
async def serving_metrics(address: str, sources: Sources) -> AsyncIterator[str]:
    """Serves /metrics as long as the block lasts; gives the address, with the port taken. Raises StartupError."""
    host, port = split_address(address)
    registry = CollectorRegistry()
    registry.register(_Metrics(sources, asyncio.get_running_loop()))
    ProcessCollector(registry=registry)
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise StartupError(f"cannot serve metrics on {address}: {error.strerror}") from error
    try:
        yield f"{address.rpartition(':')[0]}:{server.server_port}"
    finally:
        await asyncio.to_thread(server.shutdown)  # not on the loop: a scrape under way waits for it
        server.server_close()


class _Metrics(Collector):
    """All metrics of the process but those of the process itself."""

    def __init__(self, sources: Sources, loop: asyncio.AbstractEventLoop) -> None:
        self._sources = sources
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        """The metrics of now; called in a thread of the HTTP server."""
        return asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(_PATIENCE)

    async def _read(self) -> list[Metric]:
        sources = self._sources
        return [
            *_of_calls(sources.calls),
            *_of_answers(sources.calls, sources.answers),
            *_of_streams(sources.calls, sources.answers),
            *_of_writes(sources.ledger.counts),
            *_of_now(sources),
        ]


def _of_calls(calls: CallCounts) -> Iterator[Metric]:
    yield _histogram(
        "creditledger_rpc_duration_seconds",
        "Time of unary calls, by method and status code; CANCELLED: the caller left, or its deadline passed",
        ("method", "code"),
        {(_short(method), code): each for (method, code), each in calls.seconds.items()},
    )


def _of_answers(calls: CallCounts, answers: AnswerCounts) -> Iterator[Metric]:
    # With all reasons from the start: a query does not see the rise of what was not there before.
    outcomes: dict[Labels, float] = {
        ("refused", reason): answers.deductions[reason] + calls.refused[_DEDUCT, reason] for reason in Reason
    }
    outcomes["accepted", ""] = answers.deductions[False]
    outcomes["replayed", ""] = answers.deductions[True]
    yield _counter(
        "creditledger_deductions",
        "Deductions, alone and in batches, by outcome (accepted, replayed, refused) and the reason of a refusal",
        ("outcome", "reason"),
        outcomes,
    )
    refusals: dict[Labels, float] = {(reason,): answers.deductions[reason] for reason in Reason}
    for (_, reason), count in calls.refused.items():
        refusals[reason,] += count
    yield _counter(
        "creditledger_refusals", "Refused calls and items of batches, by reason", ("reason",), refusals
    )


def _of_streams(calls: CallCounts, answers: AnswerCounts) -> Iterator[Metric]:
    yield _gauge(
        "creditledger_streams",
        "Open streams, by method",
        ("method",),
        {(_short(method),): count for method, count in calls.open.items()},
    )
    yield _counter(
        "creditledger_streams_ended",
        "Ended streams, by method and reason; CANCELLED: the caller left",
        ("method", "reason"),
        {(_short(method), reason): count for (method, reason), count in calls.ended.items()},
    )
    yield _histogram(
        "creditledger_watch_lag_seconds",
        "Time from an entry's create_time until it was handed to a stream that had caught up",
        (),
        {(): answers.lag},
    )
    yield _counter(
        "creditledger_watch_coalesced",
        "Entries that streams told in summaries instead of one by one",
        (),
        {(): answers.summarized},
    )


def _of_writes(counts: WriteCounts) -> Iterator[Metric]:
    for name, meaning, values in (
        ("round_size", "Requests that one transaction took", counts.sizes),
        (
            "lock_wait_seconds",
            "Time that a transaction waited for the locks of its accounts",
            counts.lock_waits,
        ),
        ("load_seconds", "Time that a transaction took to lock and read what it needs", counts.loads),
        ("commit_seconds", "Time that a transaction took to write and commit", counts.commits),
    ):
        yield _histogram(f"creditledger_{name}", meaning, (), {(): values})


def _of_now(sources: Sources) -> Iterator[Metric]:
    yield _gauge(
        "creditledger_serving",
        "1 while health is SERVING, else 0",
        (),
        {(): sources.health.serving},
    )
    yield _gauge(
        "creditledger_queue_depth",
        "Requests that wait for a round, by queue (writes, checks)",
        ("queue",),
        {(queue,): waiting for queue, waiting in sources.ledger.waiting().items()},
    )
    usage: dict[Labels, PoolUsage] = {(name,): pool.usage() for name, pool in sources.pools.items()}
    for name, meaning, place in (
        ("size", "Connections, by pool (calls, streams)", 0),
        ("in_use", "Connections in use, by pool", 1),
        ("waiting", "Callers that wait for a connection, by pool", 2),
    ):
        values = {pool: each[place] for pool, each in usage.items()}
        yield _gauge(f"creditledger_pool_{name}", meaning, ("pool",), values)


def _short(method: str) -> str:
    return method.removeprefix("/")


def _gauge(name: str, meaning: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _counter(name: str, meaning: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _histogram(name: str, meaning: str, labels: Labels, values: Mapping[Labels, Distribution]) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for each, found in values.items():
        bounds = [*map(str, map(float, found.bounds)), "+Inf"]
        buckets = list(zip(bounds, accumulate(found.counts), strict=True))
        family.add_metric(each, buckets, found.total)
    return family
