"""A scripted server on loopback, and calls of either client to it."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import pytest
from batching_callers import TIMEOUT, Callers, Tasks, Threads
from batching_script import Accounts
from creditledger import AsyncCreditLedgerClient, CreditLedgerClient, _batching
from creditledger.v1 import credit_ledger_pb2, ledger_admin_pb2
from creditledger.v1.credit_ledger_pb2_grpc import add_CreditLedgerServicer_to_server
from creditledger.v1.ledger_admin_pb2_grpc import add_LedgerAdminServicer_to_server
from google.protobuf import message_factory
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from reservation_blocks import AsyncBlocks, Blocks, SyncBlocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

SERVICES = (
    credit_ledger_pb2.DESCRIPTOR.services_by_name["CreditLedger"],
    ledger_admin_pb2.DESCRIPTOR.services_by_name["LedgerAdmin"],
)
METHODS = {method.name: method for service in SERVICES for method in service.methods}


@dataclass
class FakeStatus(grpc.Status):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


class FakeServer:
    """Serves both services on a free port of loopback, by a script of answers per method.

    An answer is a response, an error to end the call with, or a function of request and context. Without one, it is
    what `always` set, or else an empty response.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self._answers: dict[str, list[Any]] = defaultdict(list)
        self._defaults: dict[str, Any] = {}
        self._server = grpc.server(ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
        add_CreditLedgerServicer_to_server(self, self._server)  # type: ignore[arg-type]
        add_LedgerAdminServicer_to_server(self, self._server)  # type: ignore[arg-type]
        self.target = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        self._server.start()

    def answer(self, method: str, *answers: Message | grpc.Status | Callable[..., Any]) -> None:
        self._answers[method] += answers

    def always(self, method: str, answer: Message | grpc.Status | Callable[..., Any]) -> None:
        """Sets what comes after the answers of the script."""
        self._defaults[method] = answer

    def error(
        self,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        *details: Message,
        domain: str = "creditledger",
        message: str = "for a developer",
    ) -> grpc.Status:
        """An error as the server makes it; without a reason, a bare status as others make it."""
        status = Status(code=code.value[0], message=message)
        infos = [ErrorInfo(domain=domain, reason=reason, metadata=metadata)] if reason else []
        for detail in (*infos, *details):
            status.details.add().Pack(detail)
        return FakeStatus(code, message, (("grpc-status-details-bin", status.SerializeToString()),))

    def stop(self) -> None:
        self._server.stop(0).wait()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in METHODS:
            raise AttributeError(name)
        return functools.partial(self._serve_stream if name == "WatchUsage" else self._serve, name)

    def _serve(self, method: str, request: Message, context: grpc.ServicerContext) -> Any:
        self.requests[method].append(request)
        answers = self._answers[method]
        answer = answers.pop(0) if answers else self._defaults.get(method) or self._empty(method)
        if isinstance(answer, grpc.Status):
            context.abort_with_status(answer)
        return answer(request, context) if callable(answer) else answer

    def _empty(self, method: str) -> Message:
        return message_factory.GetMessageClass(METHODS[method].output_type)()

    def _serve_stream(self, method: str, request: Message, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from self._serve(method, request, context)


StartServer = Callable[[int], FakeServer]


class Call(Protocol):
    """Calls a method of a client that was made with `options`."""

    def __call__(
        self, method: str, *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any: ...


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts a server on a port; 0 for any that is free."""
    with ExitStack() as stack:

        def start(port: int) -> FakeServer:
            fake = FakeServer(port)
            stack.callback(fake.stop)
            return fake

        yield start


@pytest.fixture
def server(start_server: StartServer) -> FakeServer:
    return start_server(0)


@pytest.fixture
def free_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, server: FakeServer) -> Call:
    """A call to the server, once by each client."""

    def call_sync(method: str, *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        with CreditLedgerClient(server.target, **(options or {})) as client:
            return getattr(client, method)(*args, **kwargs)

    async def call_async(
        method: str, *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        async with AsyncCreditLedgerClient(server.target, **(options or {})) as client:
            return await getattr(client, method)(*args, **kwargs)

    if request.param == "sync":
        return call_sync
    return lambda *args, **kwargs: asyncio.run(call_async(*args, **kwargs))


@pytest.fixture
def accounts(server: FakeServer) -> Accounts:
    return Accounts(server)


@pytest.fixture(params=[Threads, Tasks], ids=["sync", "async"])
def callers(request: pytest.FixtureRequest, server: FakeServer, accounts: Accounts) -> Iterator[Callers]:
    """Calls by each client."""
    running: Threads | Tasks = request.param(server.target)
    yield running
    for event in accounts.held.values():
        event.set()
    running.end()


@pytest.fixture(params=[SyncBlocks, AsyncBlocks], ids=["sync", "async"])
def blocks(request: pytest.FixtureRequest, server: FakeServer) -> Iterator[Blocks]:
    """Blocks of reserved work by each client."""
    running: Blocks = request.param(server.target)
    yield running
    running.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait for the batches in flight as long as these take."""
    monkeypatch.setattr(_batching, "STALL_SECONDS", TIMEOUT)
