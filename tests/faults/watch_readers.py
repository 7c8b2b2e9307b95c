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
from collections.abc import Sequence
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


class Book:
    """What a watcher has got, in its file, and how far it has come. ``account_ids`` empty: of all accounts."""

    def __init__(self, path: Path, account_ids: Sequence[str]) -> None:
        self._file = path.open("w", buffering=1 << 16)
        self._account_ids = account_ids
        self._until: dict[str, int] | None = None
        self._left = 0  # accounts that have not come as far as they must
        self._reached: dict[str, int] = {}
        self.cursor = ""

    def close(self) -> None:
        """Writes out all that was noted."""
        self._file.close()

    def note(self, *fields: str) -> None:
        """Notes something."""
        self._file.write("\t".join(fields) + "\n")

    def finish(self, until: dict[str, int]) -> None:
        """Tells up to where to watch."""
        self._until = {account_id: until[account_id] for account_id in self._account_ids or until}
        self._left = sum(self._reached.get(name, 0) < revision for name, revision in self._until.items())

    def is_done(self) -> bool:
        """Whether it has come that far."""
        return self._until is not None and not self._left

    def take(self, message: pb.WatchUsageResponse) -> None:
        """Notes a message."""
        self.cursor = message.cursor
        match message.WhichOneof("event"):
            case "snapshot":
                account_id = message.snapshot.account.account_id
                self.note("snapshot", account_id, str(message.snapshot.revision), message.cursor)
                self._reach(account_id, message.snapshot.revision)
            case "change":
                entry = message.change.entry
                late = time.time() - entry.create_time.seconds - entry.create_time.nanos / 1e9
                kind = ENTRY_KINDS.get(entry.kind, str(entry.kind))
                told = (entry.account_id, str(entry.revision), kind, f"{late:.4f}")
                self.note("change", *told, message.cursor)
                self._reach(entry.account_id, entry.revision)
            case "summary":
                told_of = message.summary
                first, last = str(told_of.from_revision), str(told_of.to_revision)
                self.note("summary", told_of.account_id, first, last, str(told_of.changes), message.cursor)
                self._reach(told_of.account_id, told_of.to_revision)
            case "caught_up":
                self.note("caught_up", message.cursor)

    def _reach(self, account_id: str, revision: int) -> None:
        before = self._reached.get(account_id, 0)
        self._reached[account_id] = max(before, revision)
        wanted = (self._until or {}).get(account_id, 0)
        self._left -= before < wanted <= revision


class Reader:
    """One watcher."""

    def __init__(self, plan: ReadersPlan, watcher: WatcherPlan) -> None:
        self._plan = plan
        self._watcher = watcher
        self._random = random.Random(f"{plan.seed} {watcher.name}")
        self.book = Book(Path(plan.folder, f"{watcher.name}.watch"), watcher.account_ids)
        self.stands = asyncio.Event()

    async def run(self) -> None:
        """Watches until all that was asked for has been seen, or it is cancelled."""
        await asyncio.sleep(self._watcher.late)
        channels = [grpc.aio.insecure_channel(target, RAW_OPTIONS) for target in self._plan.targets]
        stubs = [CreditLedgerStub(channel) for channel in channels]
        try:
            while not self.book.is_done():
                number = self._random.randrange(len(stubs))
                self.book.note(">", str(number), self.book.cursor)
                self.book.note("<", await self._stream(stubs[number]))
        finally:
            self.book.close()
            for channel in channels:
                await channel.close()

    async def _stream(self, stub: CreditLedgerStub) -> str:
        """One stream until it breaks, or is left at any moment of its life; returns why it ended."""
        request = pb.WatchUsageRequest(account_ids=self._watcher.account_ids, cursor=self.book.cursor)
        stream: Any = stub.WatchUsage(request)
        # The first one is not left before it has told where it stands: what comes before that is not to be seen.
        life = self._random.uniform(0, self._plan.life) if self.book.cursor else 3_600.0
        timer = asyncio.get_running_loop().call_later(life, stream.cancel)
        try:
            async for message in stream:
                if not self.book.cursor:
                    timer.cancel()
                    timer = asyncio.get_running_loop().call_later(self._plan.life, stream.cancel)
                self.book.take(message)
                self.stands.set()
                if self.book.is_done():
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
        return "DONE" if self.book.is_done() else "ENDED"


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
            reader.book.finish(told["until"])
        _, unfinished = await asyncio.wait(running, timeout=told["patience"])
        for task in unfinished:
            task.cancel()
    sys.stdout.write(json.dumps({"unfinished": len(unfinished)}) + "\n")


if __name__ == "__main__":
    asyncio.run(_main())
