"""A server process from its start to its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import grpc
from creditledger.v1 import credit_ledger_pb2, ledger_admin_pb2
from creditledger.v1.credit_ledger_pb2_grpc import add_CreditLedgerServicer_to_server
from creditledger.v1.ledger_admin_pb2_grpc import add_LedgerAdminServicer_to_server
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from ..config import Settings
from ..domain.catalog import Catalog
from ..ledger.ledger import Ledger
from ..ledger.start import StartupError, prepare, startup_errors
from ..storage.connect import Database
from ..storage.schema import expected_version
from ..watch.feed import Feed
from ..watch.hub import Hub
from ..watch.stream import Watcher
from .boundary import Boundary
from .credit_ledger import CreditLedgerService
from .health import Health
from .ledger_admin import LedgerAdminService

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0

SERVICES = (
    credit_ledger_pb2.DESCRIPTOR.services_by_name["CreditLedger"].full_name,
    ledger_admin_pb2.DESCRIPTOR.services_by_name["LedgerAdmin"].full_name,
)

_OPTIONS = (
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)


OnReady = Callable[[str, Sequence[str]], None]
"""Is told the address that is served, and those of /metrics."""


async def serve(
    settings: Settings,
    dsn: str,
    *,
    catalog: Catalog | None,
    on_ready: OnReady,
    share_port: bool = False,
) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP, then drains. Raises StartupError.

    ``share_port`` lets other processes that say so too listen on the same port.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Streams read through a pool of their own: thousands that wake at once must not keep calls waiting.
    database, stream_database = _database(settings, dsn), _database(settings, dsn)
    try:
        with startup_errors():
            await database.open()
            await stream_database.open()
            await _serve_on(database, stream_database, settings, dsn, catalog, on_ready, stop, share_port)
    finally:
        await stream_database.close()
        await database.close()


def _database(settings: Settings, dsn: str) -> Database:
    return Database(
        dsn,
        pool_size=settings.pool_size,
        lock_timeout=settings.lock_timeout_ms,
        statement_timeout=settings.statement_timeout_ms,
        pooled=settings.pooled,
    )


async def _serve_on(
    database: Database,
    stream_database: Database,
    settings: Settings,
    dsn: str,
    catalog: Catalog | None,
    on_ready: OnReady,
    stop: asyncio.Event,
    share_port: bool,
) -> None:
    identity = await prepare(database, settings.decimals, catalog)
    feed = Feed(
        stream_database.connection,
        poll_seconds=settings.watch_poll_ms / 1_000,
        hints=settings.watch_hints,
        listen_url=settings.listen_url or (None if settings.pooled else dsn),
        keep_hours=settings.commit_log_hours,
    )
    ledger = Ledger(
        database,
        identity,
        lanes=settings.lanes,
        max_batch=settings.max_batch,
        queue_limit=settings.queue_limit,
        on_commit=feed.committed,
    )
    health = Health(database, (database, stream_database), expected_version(), SERVICES)
    await health.start()
    watcher = Watcher(ledger, feed, settings.heartbeat_seconds)
    service = CreditLedgerService(ledger, watcher, settings.default_deadline_ms / 1_000)
    boundary = Boundary()
    server = _create_server(ledger, service, boundary, health, settings, share_port)
    port = _bind(server, settings.listen)
    pools = {"calls": database, "streams": stream_database}
    served = _metrics(settings.metrics_listen, ledger, service, boundary, health, pools)
    async with served as metrics, asyncio.TaskGroup() as tasks:
        work = [ledger.run, feed.run, health.run, *([ledger.sweeper.run] if settings.sweeper else [])]
        background = [tasks.create_task(run()) for run in work]
        await server.start()
        _relax_collector()
        on_ready(f"{settings.listen.rpartition(':')[0]}:{port}", [metrics] if metrics else [])
        await stop.wait()
        await _drain(server, feed.hub, health)
        for task in background:
            task.cancel()


def _create_server(
    ledger: Ledger,
    service: CreditLedgerService,
    boundary: Boundary,
    health: Health,
    settings: Settings,
    share_port: bool,
) -> grpc.aio.Server:
    # Unless told to, two servers must not share a port unnoticed.
    options = (*_OPTIONS, ("grpc.so_reuseport", int(share_port)))
    server = grpc.aio.server(interceptors=[boundary], options=options)
    ledger_admin = LedgerAdminService(ledger, settings.default_deadline_ms / 1_000)
    add_CreditLedgerServicer_to_server(service, server)
    add_LedgerAdminServicer_to_server(ledger_admin, server)
    add_HealthServicer_to_server(health.servicer, server)
    health_service = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection([*SERVICES, health_service, reflection.SERVICE_NAME], server)
    return server


def _bind(server: grpc.aio.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}: is another server there?") from error


def _metrics(
    address: str | None,
    ledger: Ledger,
    service: CreditLedgerService,
    boundary: Boundary,
    health: Health,
    pools: dict[str, Database],
) -> AbstractAsyncContextManager[str | None]:
    """Serves /metrics on ``address``, if there is one, as long as its block lasts."""
    if address is None:
        return nullcontext()
    from .metrics import Sources, serving_metrics  # Here: prometheus-client takes 50 ms to load.

    return serving_metrics(address, Sources(ledger, boundary.counts, service.counts, health, pools))


def _relax_collector() -> None:
    """Makes garbage collection rare: a round makes thousands of objects, none of them garbage until it is answered.

    By default the collector looks at them after every 700. What the start made is not looked at again at all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


async def _drain(server: grpc.aio.Server, hub: Hub, health: Health) -> None:
    """Lets callers go elsewhere: first they are told, then streams end, then calls under way finish."""
    await health.drain()
    hub.drain()
    await server.stop(GRACE_SECONDS)
