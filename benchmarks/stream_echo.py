"""The echo that fan-out is held against: a bare grpc.aio server whose streams send the same bytes at every Deduct.

Same options of the server, same event loop; nothing is parsed, looked up, serialized or written. Run with three files
of serialized messages: python -m benchmarks.stream_echo DEDUCT_RESPONSE FIRST_MESSAGE MESSAGE
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from creditledger_server.cli import _run
from creditledger_server.rpc.server import _OPTIONS


class StreamEcho:
    """``first`` begins a stream; ``change`` follows as often as Deduct is called while it is open."""

    def __init__(self, deducted: bytes, first: bytes, change: bytes) -> None:
        self._deducted = deducted
        self._first = first
        self._change = change
        self._count = 0
        self._wake = asyncio.Event()

    async def deduct(self, request: bytes, context: Any) -> bytes:
        """Answers, and has every stream send a message."""
        self._count += 1
        self._wake.set()
        self._wake = asyncio.Event()
        return self._deducted

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """A stream."""
        sent = self._count
        yield self._first
        while True:
            while sent < self._count:
                sent += 1
                yield self._change
            await self._wake.wait()


async def serve(deducted: bytes, first: bytes, change: bytes) -> None:
    """Serves until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=_OPTIONS)
    echo = StreamEcho(deducted, first, change)
    methods: dict[str, Any] = {
        "Deduct": grpc.unary_unary_rpc_method_handler(echo.deduct),
        "WatchUsage": grpc.unary_stream_rpc_method_handler(echo.watch),
    }
    handler = grpc.method_handlers_generic_handler("creditledger.v1.CreditLedger", methods)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready: 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    _run(serve(*(Path(name).read_bytes() for name in sys.argv[1:])))
