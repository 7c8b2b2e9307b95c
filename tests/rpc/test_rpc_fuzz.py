"""Noise: whatever bytes are sent, the answer is a proper one and the ledger holds what it should."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import METHODS, NOT_SERVED, Ledger, example_catalog, path_of
from ledger_harness import ServerProcess
from ledger_load import rows

AT_ONCE = 200
RANDOM = 10_000
MUTATED = 6_000
KINDS = [resources_pb2.ENTRY_KIND_OPENED, resources_pb2.ENTRY_KIND_DEDUCTED]
SERVED = sorted(kind for kind, method in METHODS.items() if method.name not in NOT_SERVED)


def templates() -> list[Message]:
    """Valid requests that fill every field; none can write: their accounts are not open, and no level opens them."""
    usage = resources_pb2.Usage(
        service="openai",
        metrics={"tokens": 1_834, "seconds": 2},
        response_time=Duration(seconds=1, nanos=5_000),
        outcome=resources_pb2.Usage.OUTCOME_FAILED,
        occur_time=Timestamp(seconds=1_700_000_000),
    )
    usage.metadata.update({"model": "m", "list": [1, None, {"deep": [True]}]})
    deduct = pb.DeductRequest(
        request_id="deduct-1", account_id="unknown-1", operation="chat_refinement", quantity=2, usage=usage
    )
    catalog = example_catalog()
    catalog.levels[0].limits.add(operation="chat_refinement", period=resources_pb2.PERIOD_DAY, limit=3)
    catalog.packages.add(
        package_id="p",
        credits=1,
        price=resources_pb2.Price(currency_code="EUR", amount="1.5"),
        features=["f"],
    )
    return [
        deduct,
        pb.BatchDeductRequest(requests=[deduct, deduct]),
        pb.CanPerformRequest(account_id="unknown-2", operation="chat_refinement", quantity=3, metrics={"m": 1}),
        pb.GetBalanceRequest(account_id="unknown-3", at_revision=1),
        pb.GetEntryRequest(account_id="unknown-4", request_id="r"),
        pb.ListEntriesRequest(
            account_id="unknown-5", page_size=5, page_token="x", order=pb.ENTRY_ORDER_OLDEST_FIRST, from_revision=1,
            to_revision=9, start_time=Timestamp(seconds=1), end_time=Timestamp(seconds=2), kinds=KINDS, operation="o",
        ),
        pb.SummarizeUsageRequest(
            account_id="unknown-11", operations=["o", "p"], start_time=Timestamp(seconds=1),
            end_time=Timestamp(seconds=2), bucket=pb.USAGE_BUCKET_WEEK, time_zone="Europe/Berlin",
        ),
        pb.WatchUsageRequest(account_ids=["unknown-6", "unknown-7"], cursor="x", kinds=KINDS),
        admin_pb.OpenAccountRequest(request_id="o", account_id="opened", level="no_such_level", labels={"k": "v"}),
        admin_pb.GetAccountRequest(account_id="unknown-8"),
        admin_pb.ListAccountsRequest(page_size=3, prefix="a", level="free"),
        admin_pb.GrantCreditsRequest(
            request_id="g", account_id="unknown-9", amount=7, priority=-1, reason="why", labels={"k": "v"}
        ),
        admin_pb.GetCatalogRequest(version=1),
        admin_pb.UpdateCatalogRequest(request_id="u", catalog=catalog, expected_version=77),
        admin_pb.VerifyAccountRequest(account_id="unknown-10"),
        admin_pb.GetServerInfoRequest(),
    ]  # fmt: skip


def noise(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Random bytes for every method; some begin like a field, or the parser would be all that ever sees them."""
    for number in range(RANDOM):
        data = draw.randbytes(draw.choice([1, 2, 3, 5, 8, 13, 21, 34, 55, 300]))
        if number % 3 == 0:
            data = bytes([draw.randint(1, 10) << 3 | 2, min(len(data), 127)]) + data
        yield SERVED[number % len(SERVED)], data


def mutations(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Valid messages with some bytes changed, put in, left out, repeated or cut off."""
    originals = [(type(request).__name__, request.SerializeToString()) for request in templates()]
    for number in range(MUTATED):
        kind, data = originals[number % len(originals)]
        changed = bytearray(data)
        for _ in range(draw.choice([1, 1, 1, 2, 4])):
            mutate(draw, changed)
        yield kind, bytes(changed)


def mutate(draw: random.Random, data: bytearray) -> None:
    place, end = sorted((draw.randint(0, len(data)), draw.randint(0, len(data))))
    match draw.randrange(7):
        case 0 if data:
            data[place - 1] ^= 1 << draw.randrange(8)
        case 1 if data:
            data[place - 1] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        case 2:
            data[place:place] = draw.randbytes(draw.randint(1, 4))
        case 3:
            del data[place : min(end, place + 8)]
        case 4:
            del data[end:]
        case 5:
            data += data[place:end]
        case _:
            data[place:place] = b"\xff" * 9 + b"\x01"


class Sender:
    """Sends messages many at once and notes how each ended, and those that changed something."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.codes: Counter[str] = Counter()
        self.bad: list[tuple[str, bytes, str]] = []
        self.written: Counter[str] = Counter()
        self._free = asyncio.Semaphore(AT_ONCE)
        self._calls: dict[str, Any] = {}
        for kind in SERVED:
            connect: Any = channel.unary_stream if METHODS[kind].server_streaming else channel.unary_unary
            self._calls[kind] = connect(path_of(kind), request_serializer=None, response_deserializer=None)

    async def send_all(self, messages: Iterator[tuple[str, bytes]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for kind, data in messages:
                await self._free.acquire()
                tasks.create_task(self._send(kind, data)).add_done_callback(lambda _: self._free.release())

    async def _send(self, kind: str, data: bytes) -> None:
        code = "OK"
        try:
            if METHODS[kind].server_streaming:
                await self._first_message(kind, data)
            else:
                self._note_change(kind, await self._calls[kind](data, timeout=20))
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            if code in {"UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED"}:
                self.bad.append((kind, data, f"{code}: {error.details()}"))
        self.codes[code] += 1

    async def _first_message(self, kind: str, data: bytes) -> None:
        """A stream of all accounts is a proper answer too, and may have nothing to say."""
        call = self._calls[kind](data, timeout=60)
        try:
            async with asyncio.timeout(1):
                await call.read()
        except TimeoutError:
            pass
        finally:
            call.cancel()

    def _note_change(self, kind: str, answer: bytes) -> None:
        if kind == "OpenAccountRequest" and not admin_pb.OpenAccountResponse.FromString(answer).replayed:
            self.written["accounts"] += 1
        if kind == "UpdateCatalogRequest" and not admin_pb.UpdateCatalogResponse.FromString(answer).replayed:
            self.written["catalogs"] += 1


async def send(target: str, messages: Iterator[tuple[str, bytes]]) -> Sender:
    async with grpc.aio.insecure_channel(target) as channel:
        sender = Sender(channel)
        await sender.send_all(messages)
    return sender


def test_no_noise_is_answered_with_unknown_or_internal_or_changes_the_ledger(
    server: ServerProcess, dsn: str
) -> None:
    with Ledger(server.target) as ledger:
        account = ledger.open("bystander", credits_=10)
        before = ledger.entries(account)
        draw = random.Random(20_240_229)

        senders = [asyncio.run(send(server.target, source(draw))) for source in (noise, mutations)]

        for sender in senders:
            assert sender.bad == []
            assert sender.codes["INVALID_ARGUMENT"] > 1_000
        assert senders[1].codes["NOT_FOUND"] > 100  # or the mutations would change too much to test anything
        assert senders[1].codes.total() == MUTATED and senders[0].codes.total() == RANDOM
        written = senders[0].written + senders[1].written
        assert rows(dsn, "SELECT count(*) FROM account") == [(1 + written["accounts"],)]
        assert rows(dsn, "SELECT count(*) FROM entry") == [(2 + written["accounts"],)]
        assert rows(dsn, "SELECT max(version) FROM catalog") == [(1 + written["catalogs"],)]
        assert ledger.entries(account) == before
        assert ledger.call(admin_pb.VerifyAccountRequest(account_id=account)).valid
        assert "incident" not in server.log()
        assert "Traceback" not in server.log()
