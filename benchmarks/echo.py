"""The echo that the ledger is held against: a grpc.aio server that answers every request with one given message.

Same messages, same options of the server, same event loop; no interceptor, no validation, no Postgres. Run with the two
files of serialized answers: python -m benchmarks.echo DEDUCT_RESPONSE CAN_PERFORM_RESPONSE
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
from creditledger.v1.credit_ledger_pb2 import (
    CanPerformRequest,
    CanPerformResponse,
    DeductRequest,
    DeductResponse,
)
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerServicer, add_CreditLedgerServicer_to_server
from creditledger_server.cli import _run
from creditledger_server.rpc.server import _OPTIONS


class Echo(CreditLedgerServicer):
    """Answers without looking: grpc decodes the request and encodes the answer, as it does for the ledger."""

    def __init__(self, deducted: DeductResponse, checked: CanPerformResponse) -> None:
        self._deducted = deducted
        self._checked = checked

    async def Deduct(self, request: DeductRequest, context: Any) -> DeductResponse:
        return self._deducted

    async def CanPerform(self, request: CanPerformRequest, context: Any) -> CanPerformResponse:
        return self._checked


async def serve(deducted: bytes, checked: bytes) -> None:
    """Serves until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=_OPTIONS)
    echo = Echo(DeductResponse.FromString(deducted), CanPerformResponse.FromString(checked))  # type: ignore[abstract]
    add_CreditLedgerServicer_to_server(echo, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready: 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    _run(serve(*(Path(name).read_bytes() for name in sys.argv[1:])))
