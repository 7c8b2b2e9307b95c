"""A process of watchers that read one message and then no more, until they are told to.

The first line on stdin is its plan, as JSON. Each further line is a command, answered by a line when it is done:

{"open": name}    opens the plan's streams on connections of their own, and reads the first message of each
{"close": true}   leaves all streams
{"resume": n}     has the first n streams, and the last one, read on, from now on
{"end": until}    has all read on until they have come so far, or break; tells why each has ended, and ends itself
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from fault_calls import reason_of
from watch_readers import Book

# Windows that stay as small as they begin, lest the streams be live for long before they stand still. (With
# lookahead_bytes they could be smaller still, but then gRPC lets some more in at the server's first keepalive ping,
# after 30 s, though nobody has read anything.)
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))

PATIENCE = 150.0
"""Seconds that a stream has to end or to catch up once it is read again."""


@dataclass(frozen=True)
class SlowPlan:
    """How many streams: ``hot`` of them on ``account``, the others on all accounts."""

    folder: str
    target: str
    account: str
    hot: int
    everything: int


class SlowReader:
    """A stream that is read when it is told to."""

    def __init__(self, plan: SlowPlan, name: str, account_ids: list[str]) -> None:
        self.book = Book(Path(plan.folder, f"{name}.watch"), account_ids)
        self._channel = grpc.aio.insecure_channel(plan.target, _OPTIONS)
        request = pb.WatchUsageRequest(account_ids=account_ids)
        self._stream: Any = CreditLedgerStub(self._channel).WatchUsage(request)
        self.why = ""

    async def begin(self) -> None:
        """Reads the first message."""
        self.book.note(">", "0", "")
        self.book.take(await self._stream.read())

    async def read_on(self) -> None:
        """Reads to the end."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not self.book.is_done():
                    message = await self._stream.read()
                    if message is grpc.aio.EOF:
                        break
                    self.book.take(message)
            self.why = "CAUGHT_UP" if self.book.is_done() else "ENDED"
        except TimeoutError:
            self.why = "GAVE_UP"
        except grpc.aio.AioRpcError as error:
            self.why = reason_of(error)

    async def close(self) -> None:
        """Leaves the stream."""
        self._stream.cancel()
        self.book.note("<", self.why or "LEFT")
        self.book.close()
        await self._channel.close()


class Program:
    """Carries out the commands."""

    def __init__(self, plan: SlowPlan) -> None:
        self._plan = plan
        self._readers: list[SlowReader] = []
        self._reading: list[SlowReader] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Until the last command."""
        async with asyncio.TaskGroup() as tasks:
            while line := await asyncio.to_thread(sys.stdin.readline):
                [(what, value)] = json.loads(line).items()
                match what:
                    case "open":
                        await self._open(value)
                    case "close":
                        await self._close()
                    case "resume":
                        self._reading = [*self._readers[:value], self._readers[-1]]
                        self._tasks = [tasks.create_task(reader.read_on()) for reader in self._reading]
                    case "end":
                        return await self._end(value)
                _answer({})

    async def _open(self, name: str) -> None:
        plan = self._plan
        watched = [[plan.account]] * plan.hot + [[]] * plan.everything
        self._readers = [
            SlowReader(plan, f"{name}-{number:03}", account_ids) for number, account_ids in enumerate(watched)
        ]
        await asyncio.gather(*[reader.begin() for reader in self._readers])

    async def _close(self) -> None:
        await asyncio.gather(*[reader.close() for reader in self._readers])

    async def _end(self, until: dict[str, int]) -> None:
        for reader in self._readers:
            reader.book.finish(until)
        waiting = [reader for reader in self._readers if reader not in self._reading]
        await asyncio.gather(*[reader.read_on() for reader in waiting])
        await asyncio.gather(*self._tasks)
        await self._close()
        _answer({"resumed": _ends(self._reading), "stopped": _ends(waiting)})


def _ends(readers: list[SlowReader]) -> list[str]:
    return [reader.why for reader in readers]


def _answer(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(Program(SlowPlan(**json.loads(sys.stdin.readline()))).run())
