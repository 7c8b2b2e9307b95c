"""A client process of a fault test. Its plan is the first line on stdin, as JSON; each further line is a command.

``open``   opens the accounts and tells from where watchers can read everything that follows
``load``   makes calls at random as it is commanded: {"callers": 8}, {"rate": 100, "timeout": 1.0} or {"stop": true}
``finish`` sends every call of unknown outcome again until it is answered, then reads everything by WatchUsage from the
           plan's cursors on
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from fault_calls import Caller, ClientSender, RawSender, is_unknown
from fault_history import OK, REFUSALS, UNKNOWN, UNTRIED, Call, read_history
from fault_kinds import KINDS, MIX, NEEDS, Content, other_content, watched_entry

RECENT = 60
MOST_AT_ONCE = 3_000
PATIENCE = 40.0
"""Seconds after which a call that still has no answer is left unresolved, for the test to fail."""


@dataclass(frozen=True)
class LoadPlan:
    """What one client process is to do; ``folder`` has the histories, ``name`` names its own.

    ``hot`` is the share of requests to the first account, ``resent`` that of calls of unknown outcome which are sent
    again at once, ``without`` names what of the mix is left out, ``batch`` is a range of sizes, ``credits`` is what
    each account has at first; with ``operation`` there is no other. Who is to ``insist`` sends a batch
    of unknown outcome to the other servers at once. ``timeout`` is a range of seconds; the share ``hasty`` of the calls
    draws from ``hasty_timeout`` instead, the share ``cancelled`` is cancelled after up to
    ``cancel_within``. With ``client`` the product's own client makes the calls.
    """

    job: str
    name: str
    folder: str
    targets: list[str]
    accounts: list[str]
    seed: int
    hot: float = 0.4
    resent: float = 0.4
    without: list[str] = field(default_factory=list)
    batch: tuple[int, int] = (2, 8)
    credits: int = 100
    operation: str = ""
    insist: bool = False
    timeout: tuple[float, float] = (4.0, 4.0)
    hasty: float = 0.0
    hasty_timeout: tuple[float, float] = (0.001, 0.05)
    cancelled: float = 0.0
    cancel_within: float = 0.02
    client: bool = False
    cursors: list[str] = field(default_factory=list)

    def histories(self) -> list[Path]:
        """The files of all clients so far."""
        return list(Path(self.folder).glob("*.jsonl"))


@dataclass
class _Earlier:
    """A request that was sent, and whether it was accepted."""

    kind: str
    account_id: str
    request_id: str
    content: Content
    accepted: bool = False


class Load:
    """Makes calls at random, as many at once as it is told."""

    def __init__(self, plan: LoadPlan, caller: Caller) -> None:
        self._plan = plan
        self._caller = caller
        self._random = random.Random(plan.seed)
        self._numbers = 0
        self._mix = {what: share for what, share in MIX.items() if what not in plan.without}
        self._recent: deque[_Earlier] = deque(maxlen=RECENT)
        self._accepted: deque[_Earlier] = deque(maxlen=RECENT)
        # Accounts and revisions that a call of the kinds in NEEDS can name.
        self._named: dict[str, deque[tuple[str, int]]] = {
            field: deque(maxlen=RECENT) for field in NEEDS.values()
        }
        self._doings = {
            "batch": self._batch, "again": self._again, "reuse": self._reuse,
            **{kind: self._new(kind) for kind in KINDS},
        }  # fmt: skip

    async def closed(self, callers: int, stop: asyncio.Event) -> None:
        """``callers`` tasks that each make one call after the other."""

        async def calls() -> None:
            while not stop.is_set():
                await self._do_something(self._options())

        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(calls())

    async def open(self, rate: float, timeout: float, stop: asyncio.Event) -> None:
        """Begins ``rate`` calls per second, whether or not earlier ones have been answered."""
        clock = asyncio.get_running_loop().time
        start, begun = clock(), 0
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                while begun < (clock() - start) * rate:
                    begun += 1
                    if len(running) < MOST_AT_ONCE:
                        options = {**self._options(), "timeout": timeout}
                        task = tasks.create_task(self._do_something(options))
                        running.add(task)
                        task.add_done_callback(running.discard)
                await asyncio.sleep(0.005)

    async def _do_something(self, options: dict[str, Any]) -> None:
        [what] = self._random.choices(list(self._mix), list(self._mix.values()))
        calls = await self._doings[what](options)
        if any(call.outcome in UNKNOWN | UNTRIED for call in calls):
            await asyncio.sleep(self._random.uniform(0.02, 0.08))  # as a caller backs off
        for call in calls:
            if is_unknown(call) and self._random.random() < self._plan.resent:
                options = self._options()
                await self._caller.call(call.kind, call.account_id, call.request_id, call.content, **options)

    def _options(self) -> dict[str, Any]:
        plan = self._plan
        hasty = self._random.random() < plan.hasty
        cancelled = self._random.random() < plan.cancelled
        return {
            "target": self._random.randrange(len(self._caller.sender.targets)),
            "timeout": self._random.uniform(*(plan.hasty_timeout if hasty else plan.timeout)),
            "cancel_after": self._random.uniform(0, plan.cancel_within) if cancelled else None,
        }

    def _new(self, kind: str) -> Callable[[dict[str, Any]], Coroutine[Any, Any, list[Call]]]:
        async def call(options: dict[str, Any]) -> list[Call]:
            return [await self._send(self._draw(kind), options)]

        return call

    async def _batch(self, options: dict[str, Any]) -> list[Call]:
        requests = [self._draw("deduct") for _ in range(self._random.randint(*self._plan.batch))]
        self._recent.extend(requests)
        items = [(each.account_id, each.request_id, each.content) for each in requests]
        calls = await self._caller.batch(items, **options)
        while self._plan.insist and all(map(is_unknown, calls)):
            await asyncio.sleep(0.05)
            options = {**options, "target": (options["target"] + 1) % len(self._caller.sender.targets)}
            calls = await self._caller.batch(items, **options)
        for request, call in zip(requests, calls, strict=True):
            self._note(request, call)
        return calls

    async def _again(self, options: dict[str, Any]) -> list[Call]:
        earlier = self._random.choice(self._recent) if self._recent else self._draw("deduct")
        return [await self._send(earlier, options)]

    async def _reuse(self, options: dict[str, Any]) -> list[Call]:
        """Other content under an id that was accepted, so that it must be refused."""
        if not self._accepted:
            return [await self._send(self._draw("deduct"), options)]
        earlier = self._random.choice(self._accepted)
        kind, content = other_content(earlier.kind, earlier.content, self._random)
        return [await self._caller.call(kind, earlier.account_id, earlier.request_id, content, **options)]

    async def _send(self, request: _Earlier, options: dict[str, Any]) -> Call:
        if request.request_id:
            self._recent.append(request)
        call = await self._caller.call(
            request.kind, request.account_id, request.request_id, request.content, **options
        )
        self._note(request, call)
        return call

    def _note(self, request: _Earlier, call: Call) -> None:
        if call.mutates and call.outcome == OK and not request.accepted:
            request.accepted = True
            self._accepted.append(request)
            field = {"reserve": "reservation", "deduct": "revision", "commit": "revision"}.get(call.kind)
            if field and call.revision:
                self._named[field].append((call.account_id, call.revision))

    def _draw(self, kind: str) -> _Earlier:
        """A new request."""
        accounts = self._plan.accounts
        account_id = accounts[0] if self._random.random() < self._plan.hot else self._random.choice(accounts)
        self._numbers += 1
        if kind in NEEDS and not self._named[NEEDS[kind]]:
            kind = "deduct"  # nothing to name yet
        content = KINDS[kind].draw(self._random)
        if self._plan.operation and "operation" in content:
            content["operation"] = self._plan.operation
        if kind in NEEDS:
            account_id, revision = self._random.choice(self._named[NEEDS[kind]])
            content = {NEEDS[kind]: revision, **content}
        request_id = f"{self._plan.name}-{self._numbers}"
        request = _Earlier(kind, account_id, request_id, content)
        if kind in ("can_perform", "get_balance"):
            request.request_id = ""
        return request


async def _open(plan: LoadPlan) -> dict[str, Any]:
    """Opens the accounts; returns the cursors, of all accounts and of the named ones, and the revisions there."""
    sender = RawSender(plan.targets)
    caller = Caller(sender, Path(plan.folder, f"{plan.name}.jsonl"), plan.name)
    amount = {"amount": plan.credits, "priority": 0, "reason": "welcome", "expire": ""}

    async def open_one(number: int, account_id: str) -> None:
        level = {"level": "free" if number % 4 == 3 else "pro"}
        await caller.call("open", account_id, "open", level, timeout=20)
        await caller.call("grant", account_id, "welcome", amount, timeout=20)

    await asyncio.gather(*[open_one(*each) for each in enumerate(plan.accounts)])
    stub = CreditLedgerStub(sender.channels[0])
    revisions = dict.fromkeys(plan.accounts, 2)
    cursors = [await _cursor(stub, account_ids) for account_ids in ([], plan.accounts)]
    await sender.close()
    return {"cursors": cursors, "revisions": revisions}


async def _cursor(stub: CreditLedgerStub, account_ids: list[str]) -> str:
    """The cursor behind the last snapshot, or where there is none, of the first message."""
    stream: Any = stub.WatchUsage(pb.WatchUsageRequest(account_ids=account_ids), timeout=20)
    cursor, snapshots = "", 0
    async for message in stream:
        cursor = message.cursor
        snapshots += message.HasField("snapshot")
        if snapshots == len(account_ids):
            break
    stream.cancel()
    return cursor


async def _finish(plan: LoadPlan) -> dict[str, Any]:
    """Resolves what is unknown, makes a last call to each account by each server, and reads all by WatchUsage."""
    folder = Path(plan.folder)
    calls = read_history(plan.histories())
    unknown = {
        (call.kind, call.account_id, call.request_id, json.dumps(call.content)): call
        for call in calls
        if is_unknown(call)
    }
    sender = RawSender(plan.targets)
    caller = Caller(sender, folder / f"{plan.name}.jsonl", plan.name, resolving=True)
    waiting = [(call.kind, call.account_id, call.request_id, call.content) for call in unknown.values()]
    use = {"operation": "chat_refinement", "quantity": 1, "tokens": 0}
    for target in range(len(plan.targets)):
        waiting += [("deduct", account_id, f"{plan.name}-last-{target}", use) for account_id in plan.accounts]
    unresolved = await _resolve(plan, caller, waiting)
    watched = []
    for target, cursor in zip((0, len(plan.targets) - 1), plan.cursors, strict=False):
        account_ids = plan.accounts if cursor == plan.cursors[-1] else []
        watched.append(await _watch(CreditLedgerStub(sender.channels[target]), account_ids, cursor))
    await sender.close()
    return {"unresolved": unresolved, "watched": watched}


async def _resolve(plan: LoadPlan, caller: Caller, waiting: list[tuple[str, str, str, Content]]) -> int:
    """Sends each until it is answered; returns how many never were."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + PATIENCE
    chance = random.Random(plan.seed)
    unresolved = 0

    async def resolve() -> None:
        nonlocal unresolved
        while waiting:
            request = waiting.pop()
            while clock() < give_up:
                call = await caller.call(*request, target=chance.randrange(len(plan.targets)), timeout=4.0)
                if call.outcome == OK or call.outcome in REFUSALS:
                    break
                await asyncio.sleep(0.1)
            else:
                unresolved += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(16):
            tasks.create_task(resolve())
    return unresolved


async def _watch(stub: CreditLedgerStub, account_ids: list[str], cursor: str) -> list[dict[str, Any]]:
    """Every entry after a cursor, to the point where the stream has caught up. Streams that break are resumed."""
    entries: list[dict[str, Any]] = []
    clock = asyncio.get_running_loop().time
    give_up = clock() + PATIENCE
    while True:
        stream: Any = stub.WatchUsage(
            pb.WatchUsageRequest(account_ids=account_ids, cursor=cursor), timeout=30
        )
        try:
            async for message in stream:
                cursor = message.cursor
                if message.HasField("change"):
                    entries.append(asdict(watched_entry(message.change)))
                if message.HasField("caught_up"):
                    stream.cancel()
                    return entries
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or clock() > give_up:
                raise
        await asyncio.sleep(0.1)


async def _load(plan: LoadPlan) -> dict[str, Any]:
    sender = ClientSender(plan.targets) if plan.client else RawSender(plan.targets)
    load = Load(plan, Caller(sender, Path(plan.folder, f"{plan.name}.jsonl"), plan.name))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while command := json.loads(await asyncio.to_thread(sys.stdin.readline) or '{"stop": true}'):
            stop.set()
            stop = asyncio.Event()
            if "stop" in command:
                break
            if "callers" in command:
                tasks.create_task(load.closed(command["callers"], stop))
            else:
                tasks.create_task(load.open(command["rate"], command["timeout"], stop))
    await sender.close()
    return {}


async def _main() -> None:
    told = json.loads(sys.stdin.readline())
    plan = LoadPlan(**told)
    result = await {"open": _open, "load": _load, "finish": _finish}[plan.job](plan)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    asyncio.run(_main())
