"""A process of watchers that break off their streams at random and resume them on any server, by their last cursor.

Its plan is the first line on stdin, as JSON. The next one says until which revisions to watch: {"until": {account:
revision}, "patience": seconds}. Each watcher notes all that it gets in a file of its own, one line per note, its fields
separated by tabs; see ``watch_notes`` for what they are.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from fault_calls import RAW_OPTIONS, reason_of
from fault_kinds import ENTRY_KINDS


@dataclass(frozen=True)
class WatcherPlan:
    """One watcher: of some accounts or, of none, of all; it begins after ``late`` seconds."""

    name: str
    account_ids: list[str]
    late: float


@dataclass(frozen=True)
class ReadersPlan:
    """What one process is to do: its streams live for up to ``life`` seconds each."""

    folder: str
    targets: list[str]
    watchers: list[dict[str, Any]]
    seed: int
    life: float


class Reader:
    """One watcher."""

    def __init__(self, plan: ReadersPlan, watcher: WatcherPlan) -> None:
        self._plan = plan
        self._watcher = watcher
        self._random = random.Random(f"{plan.seed} {watcher.name}")
        self._file = Path(plan.folder, f"{watcher.name}.watch").open("w", buffering=1 << 16)  # noqa: SIM115
        self._until: dict[str, int] | None = None
        self._left = 0  # accounts that have not come as far as they must
        self._cursor = ""
        self._reached: dict[str, int] = {}
        self.stands = asyncio.Event()

    async def run(self) -> None:
        """Watches until all that was asked for has been seen, or it is cancelled."""
        await asyncio.sleep(self._watcher.late)
        channels = [grpc.aio.insecure_channel(target, RAW_OPTIONS) for target in self._plan.targets]
        stubs = [CreditLedgerStub(channel) for channel in channels]
        try:
            while not self._is_done():
                number = self._random.randrange(len(stubs))
                self._note(">", str(number), self._cursor)
                self._note("<", await self._stream(stubs[number]))
        finally:
            self._file.close()
            for channel in channels:
                await channel.close()

    def finish(self, until: dict[str, int]) -> None:
        """Tells up to where to watch."""
        mine = self._watcher.account_ids or until
        self._until = {account_id: until[account_id] for account_id in mine}
        self._left = sum(self._reached.get(name, 0) < revision for name, revision in self._until.items())

    def _is_done(self) -> bool:
        return self._until is not None and not self._left

    async def _stream(self, stub: CreditLedgerStub) -> str:
        """One stream until it breaks, or is left at any moment of its life; returns why it ended."""
        request = pb.WatchUsageRequest(account_ids=self._watcher.account_ids, cursor=self._cursor)
        stream: Any = stub.WatchUsage(request)
        # The first one is not left before it has told where it stands: what comes before that is not to be seen.
        life = self._random.uniform(0, self._plan.life) if self._cursor else 3_600.0
        timer = asyncio.get_running_loop().call_later(life, stream.cancel)
        try:
            async for message in stream:
                if not self._cursor:
                    timer.cancel()
                    timer = asyncio.get_running_loop().call_later(self._plan.life, stream.cancel)
                self._take(message)
                if self._is_done():
                    break
        except grpc.aio.AioRpcError as error:
            await asyncio.sleep(self._random.uniform(0.02, 0.1))
            return reason_of(error)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            return "LEFT"
        finally:
            timer.cancel()
            stream.cancel()
        return "DONE" if self._is_done() else "ENDED"

    def _take(self, message: pb.WatchUsageResponse) -> None:
        self._cursor = message.cursor
        self.stands.set()
        match message.WhichOneof("event"):
            case "snapshot":
                account_id = message.snapshot.account.account_id
                self._note("snapshot", account_id, str(message.snapshot.revision), message.cursor)
                self._reach(account_id, message.snapshot.revision)
            case "change":
                entry = message.change.entry
                late = time.time() - entry.create_time.seconds - entry.create_time.nanos / 1e9
                kind = ENTRY_KINDS.get(entry.kind, str(entry.kind))
                told = (entry.account_id, str(entry.revision), kind, f"{late:.4f}")
                self._note("change", *told, message.cursor)
                self._reach(entry.account_id, entry.revision)
            case "summary":
                told_of = message.summary
                first, last = str(told_of.from_revision), str(told_of.to_revision)
                self._note("summary", told_of.account_id, first, last, str(told_of.changes), message.cursor)
                self._reach(told_of.account_id, told_of.to_revision)
            case "caught_up":
                self._note("caught_up", message.cursor)

    def _reach(self, account_id: str, revision: int) -> None:
        before = self._reached.get(account_id, 0)
        self._reached[account_id] = max(before, revision)
        wanted = (self._until or {}).get(account_id, 0)
        self._left -= before < wanted <= revision

    def _note(self, *fields: str) -> None:
        self._file.write("\t".join(fields) + "\n")


async def _main() -> None:
    plan = ReadersPlan(**json.loads(sys.stdin.readline()))
    watchers = [WatcherPlan(**watcher) for watcher in plan.watchers]
    readers = [Reader(plan, watcher) for watcher in watchers]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(reader.run()) for reader in readers]
        for reader, watcher in zip(readers, watchers, strict=True):
            if not watcher.late:
                await reader.stands.wait()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        told = json.loads(await asyncio.to_thread(sys.stdin.readline) or '{"until": {}, "patience": 0}')
        for reader in readers:
            reader.finish(told["until"])
        _, unfinished = await asyncio.wait(running, timeout=told["patience"])
        for task in unfinished:
            task.cancel()
    sys.stdout.write(json.dumps({"unfinished": len(unfinished)}) + "\n")


if __name__ == "__main__":
    asyncio.run(_main())
