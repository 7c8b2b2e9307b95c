"""Calls to a real server by the generated stubs, and what its errors tell.

A request says by its type which method it is for, so that tests can hold requests of all methods in one table.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import select
import string
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar, cast

import grpc
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from creditledger.v1.error_reason_pb2 import ErrorReason
from google.protobuf import message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb
from google.rpc.status_pb2 import Status
from ledger_harness import ServerProcess, running_server

M = TypeVar("M", bound=Message)

TIMEOUT = 60.0
"""Seconds; only ends a call that would hang."""

SERVICES = (
    pb.DESCRIPTOR.services_by_name["CreditLedger"],
    admin_pb.DESCRIPTOR.services_by_name["LedgerAdmin"],
)
METHODS = {method.input_type.name: method for service in SERVICES for method in service.methods}
"""Every method by the name of its request's type."""

NOT_SERVED: frozenset[str] = frozenset()
"""Methods that the protos describe and this version does not serve."""

MAX_TRAILER = 8_192
"""What a client takes by default; an answer with more is dropped, and the caller learns nothing."""

KNOWN = "the-account"
"""The account of the fixture ``known``, as a constant for tables."""

FAILED = resources_pb2.Usage(outcome=resources_pb2.Usage.OUTCOME_FAILED)
"""A use that costs nothing and counts nothing."""

_INTERNALS = re.compile(
    r"\b(select|insert into|delete from|returning)\s|psycopg|asyncpg|sqlstate|traceback|exception|<class|\.py\b"
    r"|site-packages|/usr/|/tmp/|creditledger_server|\brelation\b|violates|syntax error|Error:",
    re.IGNORECASE,
)
_numbers = itertools.count(1)


def unique(prefix: str = "request") -> str:
    """A name that no other call of this test run uses."""
    return f"{prefix}-{next(_numbers)}"


def path_of(request_type: str) -> str:
    """The gRPC path of the method that takes such requests."""
    method = METHODS[request_type]
    return f"/{method.containing_service.full_name}/{method.name}"


@dataclass(frozen=True)
class Failure:
    """What an error told, whose shape has been checked."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str]
    details: tuple[Any, ...]

    @property
    def kinds(self) -> set[str]:
        """The details besides ErrorInfo, by the names of their types."""
        return {type(detail).__name__ for detail in self.details}

    @property
    def fields(self) -> dict[str, str]:
        """The violations of BadRequest: field path and rule."""
        found = self.detail("BadRequest")
        return {item.field: item.description for item in found.field_violations} if found else {}

    @property
    def word(self) -> str:
        """Code and reason in short, as contract §7 writes them."""
        return f"{self.code.name} / {self.reason}"

    @property
    def decided(self) -> tuple[int, datetime]:
        """The revision and the time of the decision."""
        return int(self.metadata["revision"]), datetime.fromisoformat(self.metadata["decideTime"])

    def detail(self, kind: str) -> Any:
        """The detail of a type, or None."""
        return next((detail for detail in self.details if type(detail).__name__ == kind), None)


class Ledger:
    """Both services of one server, over a connection of its own."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.channel: Any = grpc.insecure_channel(target, (("grpc.use_local_subchannel_pool", 1),))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.channel.close()

    def call(self, request: Message, timeout: float = TIMEOUT, **options: Any) -> Any:
        """The response; of a stream, its iterator."""
        method = METHODS[type(request).__name__]
        connect = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        response = message_factory.GetMessageClass(method.output_type)
        return connect(
            path_of(type(request).__name__),
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )(request, timeout=timeout, **options)

    def raw(self, request_type: str, data: bytes, timeout: float = TIMEOUT) -> Any:
        """The response to bytes that may be no such message; of a stream, its first one."""
        method = METHODS[request_type]
        connect = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        response = message_factory.GetMessageClass(method.output_type)
        answer = connect(
            path_of(request_type), request_serializer=None, response_deserializer=response.FromString
        )(data, timeout=timeout)
        return first_of(answer) if method.server_streaming else answer

    def refusal(self, request: Message | tuple[str, bytes], timeout: float = TIMEOUT) -> Failure:
        """How a request (or type and bytes of one) fails."""
        try:
            if isinstance(request, tuple):
                answer = self.raw(*request, timeout=timeout)
            elif METHODS[type(request).__name__].server_streaming:
                answer = first_of(self.call(request, timeout=timeout))
            else:
                answer = self.call(request, timeout=timeout)
        except grpc.RpcError as error:
            return failure_of(error)
        raise AssertionError(f"accepted: {answer}")

    def open(self, account_id: str = "", level: str = "pro", credits_: int = 0) -> str:
        """An account, new if it has no name, with credits; returns its name."""
        account_id = account_id or unique("account")
        self.call(admin_pb.OpenAccountRequest(request_id=unique("open"), account_id=account_id, level=level))
        if credits_:
            self.grant(account_id, credits_)
        return account_id

    def grant(self, account_id: str, amount: int, **fields: Any) -> admin_pb.GrantCreditsResponse:
        """Grants credits."""
        fields.setdefault("request_id", unique("grant"))
        answer = self.call(admin_pb.GrantCreditsRequest(account_id=account_id, amount=amount, **fields))
        return cast(admin_pb.GrantCreditsResponse, answer)

    def deduct(self, account_id: str, operation: str = "chat_refinement", **fields: Any) -> pb.DeductResponse:
        """Charges an operation."""
        return cast(pb.DeductResponse, self.call(deduction(account_id, operation, **fields)))

    def refused_deduct(self, account_id: str, operation: str = "chat_refinement", **fields: Any) -> Failure:
        """How a deduction fails."""
        return self.refusal(deduction(account_id, operation, **fields))

    def can_perform(
        self, account_id: str, operation: str = "chat_refinement", **fields: Any
    ) -> pb.CanPerformResponse:
        """Whether it may."""
        request = pb.CanPerformRequest(account_id=account_id, operation=operation, **fields)
        return cast(pb.CanPerformResponse, self.call(request))

    def balance(self, account_id: str) -> pb.GetBalanceResponse:
        """How an account stands."""
        return cast(pb.GetBalanceResponse, self.call(pb.GetBalanceRequest(account_id=account_id)))

    def available(self, account_id: str) -> int:
        """What can be spent."""
        return self.balance(account_id).balance.available

    def revision(self, account_id: str) -> int:
        """The revision of an account's newest entry; 0 if there is no such account."""
        try:
            return self.balance(account_id).revision
        except grpc.RpcError as error:
            assert failure_of(error).reason == "ACCOUNT_NOT_FOUND"
            return 0

    def entries(self, account_id: str) -> list[resources_pb2.Entry]:
        """The whole history of an account of up to 1,000 entries, oldest first."""
        answer = self.call(
            pb.ListEntriesRequest(account_id=account_id, order=pb.ENTRY_ORDER_OLDEST_FIRST, page_size=1_000)
        )
        assert not answer.next_page_token
        return list(answer.entries)

    def kinds(self, account_id: str) -> list[str]:
        """The kinds of an account's entries, oldest first, without their prefix."""
        return [kind_name(entry) for entry in self.entries(account_id)]


def deduction(account_id: str, operation: str = "chat_refinement", **fields: Any) -> pb.DeductRequest:
    """A deduction, under a new request id unless it is given one."""
    fields.setdefault("request_id", unique("deduct"))
    return pb.DeductRequest(account_id=account_id, operation=operation, **fields)


def kind_name(entry: resources_pb2.Entry) -> str:
    """The kind of an entry without its prefix."""
    return resources_pb2.EntryKind.Name(entry.kind).removeprefix("ENTRY_KIND_")


def first_of(stream: Any) -> Any:
    """The first message of a stream, which ends with that."""
    try:
        return next(stream)
    finally:
        stream.cancel()


def failure_of(error: grpc.RpcError) -> Failure:
    """What an error told. Asserts what holds of every error of the server (contract §7)."""
    call: Any = error  # errors of calls are calls as well
    trailers: Sequence[tuple[str, str | bytes]] = call.trailing_metadata() or ()
    packed = dict(trailers).get("grpc-status-details-bin")
    assert isinstance(packed, bytes), f"no details: {error}"
    status = Status.FromString(packed)
    details = [_unpacked(item) for item in status.details]
    [info] = [detail for detail in details if isinstance(detail, details_pb.ErrorInfo)]
    failure = Failure(
        code=call.code(),
        reason=info.reason,
        message=call.details() or "",
        metadata=dict(info.metadata),
        details=tuple(detail for detail in details if detail is not info),
    )
    assert info.domain == "creditledger"
    assert f"ERROR_REASON_{info.reason}" in ErrorReason.keys()  # noqa: SIM118 - an enum wrapper, no dict
    assert (status.code, status.message) == (failure.code.value[0], failure.message)
    assert failure.message.isprintable()
    _check_discreet(failure)
    assert trailer_size(failure.message, packed) <= MAX_TRAILER
    return failure


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    """The status code with which a call ends, also where it is not the server's own."""
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = cast(Any, error).code()
        return code
    return grpc.StatusCode.OK


def told_texts(failure: Failure) -> list[str]:
    """Every text that an error carries."""
    return [failure.message, *failure.metadata.values(), *failure.fields, *failure.fields.values()]


def trailer_size(message: str, packed: bytes) -> int:
    """About how many bytes an error takes on the wire: its message percent-encoded, its details in base64."""
    encoded = sum(1 if " " <= char <= "~" and char != "%" else 3 * len(char.encode()) for char in message)
    return 250 + encoded + len(packed) * 4 // 3


def without_replayed(response: M) -> M:
    """A copy that does not tell whether it is a replay."""
    copy = type(response)()
    copy.CopyFrom(response)
    copy.ClearField("replayed")
    return copy


def example_catalog(**changes: Any) -> resources_pb2.Catalog:
    """A small catalog in which nothing is limited, with further operations of these flat prices."""
    prices = {"chat_refinement": 1, "voice_creation": 5, **changes}
    return resources_pb2.Catalog(
        operations=[
            resources_pb2.Operation(operation=name, flat=resources_pb2.FlatPrice(amount=price))
            for name, price in prices.items()
        ],
        levels=[resources_pb2.Level(level="free"), resources_pb2.Level(level="pro")],
        default_level="free",
    )


@contextmanager
def serving(
    dsn: str, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[tuple[ServerProcess, Ledger]]:
    """A server of the test's own and calls to it."""
    with running_server(dsn, *options, env=dict(env or {})) as process:
        try:
            with Ledger(process.target) as ledger:
                yield process, ledger
        finally:
            # Left to the garbage collector, it is a ResourceWarning in whatever test runs then.
            process._log.close()


@contextmanager
def serve_command(*options: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """``creditledger-server serve`` with these options only, killed at the end of the block if it still runs."""
    command = [sys.executable, "-m", "creditledger_server.cli", "serve", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ready_line(process: subprocess.Popen[str]) -> str:
    """Waits for the line on stdout that tells that the server takes calls."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], TIMEOUT)[0], "the server does not become ready"
    line = process.stdout.readline()
    assert line.startswith("ready: "), f"{line!r}; {process.communicate()}"
    return line


def alterations(token: str) -> Iterator[str]:
    """Texts that are nearly a page token or cursor: each of its bytes changed, cut, lengthened, spelled otherwise."""
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1 << place % 8
        yield base64.urlsafe_b64encode(changed).decode().rstrip("=")
    yield from (token[1:], token[:-1], token[:-4], token + "AAAA", token * 2, "x")
    yield from (token + "=", token + "==", token + "\n", " " + token, token[:3] + "!" + token[3:])
    letters = string.ascii_letters + string.digits + "-_+/"
    yield from (token[:-1] + letter for letter in letters if letter != token[-1])


def large_usage() -> resources_pb2.Usage:
    """A use with as much metadata as there may be."""
    usage = resources_pb2.Usage()
    usage.metadata.update({"k": "x" * (4_096 - len('{"k":""}'))})
    return usage


def _unpacked(packed: Any) -> Any:
    kind = getattr(details_pb, packed.TypeName().rpartition(".")[2])
    detail = kind()
    assert packed.Unpack(detail)
    return detail


def _check_discreet(failure: Failure) -> None:
    for text in told_texts(failure):
        assert not _INTERNALS.search(text), f"tells internals: {text}"
        assert len(text) < 2_000
