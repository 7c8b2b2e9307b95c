"""Client processes that load servers: each reads its plan as JSON on stdin and tells what it saw as JSON on stdout.

Load must not come from the process that runs the tests: one Python process cannot press servers hard enough, and its
event loop would put the calls in an order. A ``ClientProcess`` connects, waits for the word to go, so that several
begin at once, and carries out a ``Plan`` of deductions or a ``WatchPlan``.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, LiteralString, NamedTuple, Self

import grpc
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2, resources_pb2
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from creditledger.v1.error_reason_pb2 import ErrorReason
from creditledger.v1.ledger_admin_pb2_grpc import LedgerAdminStub
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

UNKNOWN = frozenset(
    {
        "CANCELLED", "CONTENTION", "DEADLINE_EXCEEDED", "DEADLINE_PASSED", "SERVER_OVERLOADED", "SHUTTING_DOWN",
        "STORAGE_UNAVAILABLE", "UNAVAILABLE",
    }
)  # fmt: skip
"""Outcomes after which a caller sends the same request again: it may have happened, or not, or not yet."""

_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # a channel is a connection of its own
_MOST_SECONDS = 240.0


@dataclass(frozen=True)
class Plan:
    """Deductions of ``operation``: ``calls`` are (request id, account id), taken in their order by ``callers`` at once.

    ``connections`` are spread over ``targets``. Each call is sent ``copies`` times at once, over different connections;
    with ``batch``, that many calls are one BatchDeduct. ``timeout`` and ``cancel_after`` are ranges of milliseconds to
    draw from, ``cancelled`` is the share of calls to cancel. With ``insist``, calls of unknown outcome are sent again.
    After ``patience`` seconds nothing more is sent, so that a test may tell what is missing.
    """

    targets: Sequence[str]
    calls: Sequence[tuple[str, str]]
    connections: int = 2
    callers: int = 16
    copies: int = 1
    batch: int = 0
    operation: str = "chat_refinement"
    account_level: str = ""
    failed: bool = False
    timeout: tuple[float, float] = (30_000, 30_000)
    cancelled: float = 0
    cancel_after: tuple[float, float] = (1, 50)
    insist: bool = False
    patience: float = 120
    seed: int = 0


@dataclass(frozen=True)
class WatchPlan:
    """WatchUsage of ``account_ids`` (none: all) until the newest revision of each account in ``until`` was seen.

    Before that the stream is broken off ``reconnects`` times, after up to ``most`` changes, and resumed on a target
    drawn at random. After ``patience`` seconds it gives up, so that a test may tell what is missing.
    """

    targets: Sequence[str]
    account_ids: Sequence[str]
    until: dict[str, int]
    reconnects: int = 0
    most: int = 0
    seed: int = 0
    patience: float = 120


class Answer(NamedTuple):
    """How one call ended: ``outcome`` is OK or the reason, and ``told`` what the error told.

    ``digest`` stands for every field of the response but ``replayed``. ``begin`` and ``end`` are of a clock that all
    processes share.
    """

    request_id: str
    account_id: str
    outcome: str
    revision: int
    digest: str
    replayed: bool
    told: dict[str, str]
    begin: float
    end: float


@dataclass
class Watched:
    """What a watcher saw, over all of its streams: revisions by account in the order of their arrival."""

    connections: int = 0
    snapshots: dict[str, int] = field(default_factory=dict)
    revisions: dict[str, list[int]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class ClientProcess:
    """A client in a process of its own, killed at the end of the block if it has not ended."""

    def __init__(self, plan: Plan | WatchPlan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )
        self._output = ""
        self._reader = threading.Thread(target=self._read)
        self._tell(json.dumps({"watch": isinstance(plan, WatchPlan), "plan": asdict(plan)}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        if self._reader.ident:
            self._reader.join()
        else:
            self._read()

    def await_ready(self) -> None:
        """Waits until it is connected; a watcher, until its stream stands."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "ready\n", f"the client did not become ready: {line}"

    def go(self) -> None:
        """Lets it begin."""
        self._tell("go")
        self._reader.start()  # or a client with much to tell would wait for its reader

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._reader.is_alive()

    def answers(self) -> list[Answer]:
        """Waits for the end; the answers to the plan's calls."""
        return [Answer(*each) for each in self._result()]

    def watched(self) -> Watched:
        """Waits for the end; what the watcher saw."""
        return Watched(**self._result())

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        self._output, _ = self._process.communicate()

    def _result(self) -> Any:
        self._reader.join(_MOST_SECONDS + 30)
        assert self._process.returncode == 0, "the client failed or hangs; its traceback is on stderr"
        return json.loads(self._output)


def run_together(plans: Sequence[Plan]) -> list[Answer]:
    """The answers of several client processes that begin at once."""
    clients = [ClientProcess(plan) for plan in plans]
    try:
        for client in clients:
            client.await_ready()
        for client in clients:
            client.go()
        return [answer for client in clients for answer in client.answers()]
    finally:
        for client in clients:
            client.__exit__()


def open_account(target: str, account_id: str, credits_: int, level: str = "pro") -> None:
    """Opens an account and grants it credits: revisions 1 and 2."""
    with grpc.insecure_channel(target) as channel:
        admin = LedgerAdminStub(channel)
        admin.OpenAccount(
            ledger_admin_pb2.OpenAccountRequest(request_id="open", account_id=account_id, level=level),
            timeout=30,
        )
        admin.GrantCredits(
            ledger_admin_pb2.GrantCreditsRequest(request_id="grant", account_id=account_id, amount=credits_),
            timeout=30,
        )


def verified(dsn: str) -> str:
    """What ``creditledger-server verify`` prints."""
    command = [sys.executable, "-m", "creditledger_server.cli", "verify", "--database-url", dsn]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout.strip()


def rows(dsn: str, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
    """What a query tells, in a transaction of its own."""
    import psycopg  # here, because the clients do without it

    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []


def effects(dsn: str) -> int:
    """How many deductions the history holds."""
    [(count,)] = rows(dsn, "SELECT count(*) FROM entry WHERE kind = 4")
    return int(count)


def await_true(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Looks again and again until the condition holds; ``seconds`` only end a test that would hang."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def by_request(answers: Iterable[Answer], outcome: str = "OK") -> dict[str, list[Answer]]:
    """The answers with an outcome, by request id."""
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.outcome == outcome:
            found.setdefault(answer.request_id, []).append(answer)
    return found


def unequal(answers: Iterable[Answer]) -> list[list[Answer]]:
    """The accepted answers to one request id that are not all the same response."""
    same = by_request(answers).values()
    return [group for group in same if len({(answer.revision, answer.digest) for answer in group}) > 1]


class _Caller:
    """Carries out a plan."""

    def __init__(self, plan: Plan, channels: Sequence[grpc.aio.Channel]) -> None:
        self._plan = plan
        self._stubs = [CreditLedgerStub(channel) for channel in channels]
        self._random = random.Random(plan.seed)
        self._answers: list[Answer] = []
        self._give_up = time.monotonic() + plan.patience
        self._pending = iter(plan.calls) if not plan.batch else iter(())
        self._batches = _parts(plan.calls, plan.batch) if plan.batch else iter(())

    async def run(self) -> list[Answer]:
        """Sends everything; returns the answers as they came."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._plan.callers):
                tasks.create_task(self._call_one_by_one(number))
        return self._answers

    async def _call_one_by_one(self, number: int) -> None:
        for request_id, account_id in itertools.takewhile(self._patient, self._pending):
            copies = [
                self._deduct(request_id, account_id, number + copy) for copy in range(self._plan.copies)
            ]
            self._answers += await asyncio.gather(*copies)
        for calls in itertools.takewhile(self._patient, self._batches):
            self._answers += await self._deduct_batch(calls, number)

    async def _deduct(self, request_id: str, account_id: str, number: int) -> Answer:
        request = self._request(request_id, account_id)
        begin = time.monotonic()
        while True:
            outcome = await self._send("Deduct", request, number)
            answer = _answer(request, outcome, begin)
            if not self._again(answer):
                return answer
            await asyncio.sleep(0.05)
            number += 1

    async def _deduct_batch(self, calls: Sequence[tuple[str, str]], number: int) -> list[Answer]:
        requests = [self._request(*call) for call in calls]
        begin = time.monotonic()
        answers: list[Answer] = []
        while requests:
            outcome = await self._send("BatchDeduct", pb.BatchDeductRequest(requests=requests), number)
            round_ = [
                _answer(*each, begin) for each in zip(requests, _items(outcome, len(requests)), strict=True)
            ]
            answers += [answer for answer in round_ if not self._again(answer)]
            requests = [each for each, answer in zip(requests, round_, strict=True) if self._again(answer)]
            number += 1
        return answers

    async def _send(self, method: str, request: Any, number: int) -> Any:
        """The response, or the error."""
        stub = self._stubs[number % len(self._stubs)]
        call = getattr(stub, method)(request, timeout=self._random.uniform(*self._plan.timeout) / 1_000)
        if self._random.random() < self._plan.cancelled:
            delay = self._random.uniform(*self._plan.cancel_after) / 1_000
            asyncio.get_running_loop().call_later(delay, call.cancel)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            return error
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            return None

    def _again(self, answer: Answer) -> bool:
        return self._plan.insist and answer.outcome in UNKNOWN and self._patient()

    def _patient(self, _next: object = None) -> bool:
        return time.monotonic() < self._give_up

    def _request(self, request_id: str, account_id: str) -> pb.DeductRequest:
        usage = resources_pb2.Usage(outcome=resources_pb2.Usage.OUTCOME_FAILED) if self._plan.failed else None
        return pb.DeductRequest(
            request_id=request_id, account_id=account_id, account_level=self._plan.account_level,
            operation=self._plan.operation, usage=usage,
        )  # fmt: skip


class _Watcher:
    """Carries out a watch plan."""

    def __init__(self, plan: WatchPlan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._cursor = ""
        self.seen = Watched()

    async def begin(self) -> None:
        """Has a first stream that stands, so that nothing from now on may be missed."""
        while not self._cursor:
            await self._stream(most=None)

    async def run(self) -> Watched:
        """Watches to the end."""
        try:
            async with asyncio.timeout(self._plan.patience):
                for _ in range(self._plan.reconnects):
                    await self._stream(most=self._random.randint(0, self._plan.most))
                while not self._done():
                    await self._stream(most=sys.maxsize)
        except TimeoutError:
            self.seen.errors.append("gave up")
        return self.seen

    async def _stream(self, most: int | None) -> None:
        """Reads up to ``most`` changes of a stream on a connection of its own; None: its first message."""
        self.seen.connections += 1
        async with grpc.aio.insecure_channel(self._random.choice(self._plan.targets), _OPTIONS) as channel:
            request = pb.WatchUsageRequest(account_ids=self._plan.account_ids, cursor=self._cursor)
            stream = CreditLedgerStub(channel).WatchUsage(request)
            if most == 0:
                await asyncio.sleep(self._random.uniform(0, 0.02))  # leaves at any moment of its beginning
                return
            try:
                async for message in stream:
                    changes = self._take(message)
                    if most is None or self._done():
                        return
                    most -= changes
                    if most <= 0:
                        return
            except grpc.aio.AioRpcError as error:
                self.seen.errors.append(_reason(error))

    def _take(self, message: pb.WatchUsageResponse) -> int:
        """Notes a message; returns how many changes it tells."""
        self._cursor = message.cursor
        if message.HasField("snapshot"):
            self.seen.snapshots[message.snapshot.account.account_id] = message.snapshot.revision
        if not message.HasField("change"):
            return 0
        entry = message.change.entry
        self.seen.revisions.setdefault(entry.account_id, []).append(entry.revision)
        return 1

    def _done(self) -> bool:
        newest = {account_id: revisions[-1] for account_id, revisions in self.seen.revisions.items()}
        return all(newest.get(account_id, 0) >= revision for account_id, revision in self._plan.until.items())


def _answer(request: pb.DeductRequest, outcome: Any, begin: float) -> Answer:
    """The answer that a response, an ItemStatus or an error is."""
    end = time.monotonic()
    if isinstance(outcome, pb.DeductResponse):
        replayed, outcome.replayed = outcome.replayed, False
        digest = hashlib.sha256(outcome.SerializeToString(deterministic=True)).hexdigest()[:16]
        revision = outcome.entry.revision
        return Answer(
            request.request_id, request.account_id, "OK", revision, digest, replayed, {}, begin, end
        )
    told = _told(outcome)
    return Answer(
        request.request_id, request.account_id, _reason(outcome), int(told.get("revision", 0)), "", False, told,
        begin, end,
    )  # fmt: skip


def _items(outcome: Any, size: int) -> list[Any]:
    """The outcome of each item of a batch; an error is that of all."""
    if not isinstance(outcome, pb.BatchDeductResponse):
        return [outcome] * size
    return [getattr(result, str(result.WhichOneof("result"))) for result in outcome.results]


def _reason(outcome: Any) -> str:
    if outcome is None:
        return "CANCELLED"
    if isinstance(outcome, resources_pb2.ItemStatus):
        return ErrorReason.Name(outcome.reason).removeprefix("ERROR_REASON_")
    info = _error_info(outcome)
    return info.reason if info else str(outcome.code().name)


def _told(outcome: Any) -> dict[str, str]:
    if outcome is None:
        return {}
    if isinstance(outcome, resources_pb2.ItemStatus):
        return dict(outcome.metadata)
    info = _error_info(outcome)
    return dict(info.metadata) if info else {}


def _error_info(error: grpc.aio.AioRpcError) -> ErrorInfo | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = ErrorInfo()
            for detail in Status.FromString(value).details:
                if detail.Unpack(info):
                    return info
    return None


def _parts(calls: Sequence[tuple[str, str]], size: int) -> Iterator[Sequence[tuple[str, str]]]:
    return (calls[start : start + size] for start in range(0, len(calls), size))


@asynccontextmanager
async def _connected(plan: Plan) -> AsyncIterator[list[grpc.aio.Channel]]:
    targets = [plan.targets[number % len(plan.targets)] for number in range(plan.connections)]
    channels = [grpc.aio.insecure_channel(target, _OPTIONS) for target in targets]
    try:
        for channel in channels:
            await channel.channel_ready()
        yield channels
    finally:
        for channel in channels:
            await channel.close()


async def _main() -> None:
    told = json.loads(sys.stdin.readline())
    async with asyncio.timeout(_MOST_SECONDS):
        result = await (_watch(WatchPlan(**told["plan"])) if told["watch"] else _call(Plan(**told["plan"])))
    sys.stdout.write(json.dumps(result))


async def _call(plan: Plan) -> list[Answer]:
    async with _connected(plan) as channels:
        await _await_go()
        return await _Caller(plan, channels).run()


async def _watch(plan: WatchPlan) -> dict[str, Any]:
    watcher = _Watcher(plan)
    await watcher.begin()
    await _await_go()
    return asdict(await watcher.run())


async def _await_go() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(_main())
