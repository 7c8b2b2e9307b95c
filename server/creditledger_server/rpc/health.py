"""grpc.health.v1: SERVING only while Postgres answers and holds the schema that this server knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2
from grpc_health.v1._async import HealthServicer

from ..storage.connect import Connection, Database
from ..storage.errors import StorageError
from ..storage.reads import read_info

logger = logging.getLogger(__name__)

PROBE_SECONDS = 0.5
_PROBE_TIMEOUT = 2.0


class Health:
    """Probes the database and sets the status of every service, "" included.

    Before it says SERVING again it has the connections of ``pools`` replaced, so that the first calls do not fail.
    """

    def __init__(
        self, database: Database, pools: Sequence[Database], schema_version: str, services: Sequence[str]
    ) -> None:
        self.servicer: HealthServicer = health.aio.HealthServicer()
        self._database = database
        self._pools = pools
        self._schema_version = schema_version
        self._services = ("", *services)
        self._serving = False
        self._draining = False
        self._conn: Connection | None = None

    @property
    def serving(self) -> bool:
        """Whether it says SERVING."""
        return self._serving and not self._draining

    async def start(self) -> None:
        """Probes once, so that what is ready also says so; grpc's own default for "" is SERVING."""
        await self._set(serving=await self._probe())

    async def run(self) -> None:
        """Probes until cancelled."""
        try:
            while True:
                serving = await self._probe()
                if serving != self._serving:
                    logger.log(logging.INFO if serving else logging.WARNING, "health: serving=%s", serving)
                    await self._set(serving=serving)
                await asyncio.sleep(PROBE_SECONDS)
        finally:
            await self._drop()

    async def drain(self) -> None:
        """NOT_SERVING for good."""
        self._draining = True
        await self.servicer.enter_graceful_shutdown()

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                # A connection of its own: a pool that callers have emptied is no reason to go.
                if self._conn is None or self._conn.closed:
                    self._conn = await self._database.connect()
                info = await read_info(self._conn)
                if not self._serving:
                    for pool in self._pools:
                        await pool.replace_broken()
        except (StorageError, TimeoutError):
            await self._drop()
            return False
        return info.schema_version == self._schema_version

    async def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()

    async def _set(self, *, serving: bool) -> None:
        self._serving = serving
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in self._services:
            await self.servicer.set(service, status)
