"""The service CreditLedger: validates, calls the ledger, answers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import resources_pb2
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerServicer

from ..domain.commands import Command, Deduct
from ..domain.decide import Accepted
from ..domain.entry import Entry
from ..domain.refusal import Reason, Refused
from ..ledger.history import Standing
from ..ledger.ledger import Ledger
from ..ledger.reader import Checked
from ..watch.message import Message, Signal, Summary
from ..watch.stream import Watcher
from . import convert, requests, usage_summary
from .context import Context, accepted, deadline_of
from .counts import AnswerCounts
from .paging import Pages, fitting
from .status import item_status, reason_number
from .validate import Fields

MAX_BATCH = 1_000
MAX_WATCHED = 1_000
MAX_INTERVAL = 3_600  # seconds
MAX_MESSAGE = 4 << 20  # what grpc clients take unless told otherwise
ENTRY_OVERHEAD = 800  # what an answer adds to its request, with four limits and a name of 128 bytes twice


class CreditLedgerService(CreditLedgerServicer):
    """The data plane. Methods that are not here answer UNIMPLEMENTED. ``counts`` is of its answers."""

    def __init__(self, ledger: Ledger, watcher: Watcher, default_deadline: float) -> None:
        self.counts = AnswerCounts()
        self._ledger = ledger
        self._watcher = watcher
        self._pages = Pages(ledger.identity.cursor_key)
        self._default_deadline = default_deadline

    async def CanPerform(self, request: pb.CanPerformRequest, context: Context) -> pb.CanPerformResponse:
        check = requests.check(request)
        return _can_perform(await self._ledger.check(check, deadline_of(context, self._default_deadline)))

    async def Deduct(self, request: pb.DeductRequest, context: Context) -> pb.DeductResponse:
        answer = await self._write(requests.deduct(request), context)
        self.counts.deductions[answer.replayed] += 1
        response = pb.DeductResponse()
        _fill_deducted(response, answer)
        return response

    async def BatchDeduct(self, request: pb.BatchDeductRequest, context: Context) -> pb.BatchDeductResponse:
        if not 1 <= len(request.requests) <= MAX_BATCH:
            raise _field_invalid("requests", f"must be 1 to {MAX_BATCH} requests")
        # Entries repeat what was sent: an answer that cannot arrive must not be charged for.
        if request.ByteSize() + len(request.requests) * ENTRY_OVERHEAD > MAX_MESSAGE:
            raise _field_invalid("requests", "are too large together for one answer; send fewer at once")
        commands = [_command_or_refusal(item) for item in request.requests]
        decided = iter(
            await self._ledger.write(
                [command for command in commands if not isinstance(command, Refused)],
                deadline_of(context, self._default_deadline),
            )
        )
        answers = [item if isinstance(item, Refused) else next(decided) for item in commands]
        self.counts.deducted(answers)
        response = pb.BatchDeductResponse()
        for answer in answers:
            _fill_result(response.results.add(), answer)
        return response

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveResponse:
        entry, replayed = await self._write(requests.reserve(request), context)
        return pb.ReserveResponse(
            reservation=convert.told_reservation(entry), balance=convert.balance(entry),
            limits=convert.limits(entry.limits), replayed=replayed,
        )  # fmt: skip

    async def CommitReservation(
        self, request: pb.CommitReservationRequest, context: Context
    ) -> pb.CommitReservationResponse:
        entry, replayed = await self._write(requests.commit(request), context)
        told = entry.told()
        return pb.CommitReservationResponse(
            entry=convert.entry(entry), cost=entry.cost, released=told.get("released", 0), late=told.get("late", False),
            balance=convert.balance(entry), limits=convert.limits(entry.limits), replayed=replayed,
        )  # fmt: skip

    async def ReleaseReservation(
        self, request: pb.ReleaseReservationRequest, context: Context
    ) -> pb.ReleaseReservationResponse:
        entry, replayed = await self._write(requests.release(request), context)
        return pb.ReleaseReservationResponse(
            entry=convert.entry(entry), balance=convert.balance(entry), limits=convert.limits(entry.limits),
            replayed=replayed,
        )  # fmt: skip

    async def ExtendReservation(
        self, request: pb.ExtendReservationRequest, context: Context
    ) -> pb.ExtendReservationResponse:
        entry, replayed = await self._write(requests.extend(request), context)
        return pb.ExtendReservationResponse(reservation=convert.told_reservation(entry), replayed=replayed)

    async def Refund(self, request: pb.RefundRequest, context: Context) -> pb.RefundResponse:
        entry, replayed = await self._write(requests.refund(request), context)
        told = entry.told()
        return pb.RefundResponse(
            entry=convert.entry(entry), balance=convert.balance(entry), refundable=told["refundable"],
            forfeited=told["forfeited"], replayed=replayed,
        )  # fmt: skip

    async def GetReservation(
        self, request: pb.GetReservationRequest, context: Context
    ) -> pb.GetReservationResponse:
        fields = Fields()
        fields.identifier("account_id", request.account_id)
        revision = fields.numbered("reservation_id", request.reservation_id, "r")
        fields.check()
        found = await self._ledger.history.reservation(request.account_id, revision)
        return pb.GetReservationResponse(reservation=convert.reservation(found))

    async def ListReservations(
        self, request: pb.ListReservationsRequest, context: Context
    ) -> pb.ListReservationsResponse:
        fields = Fields()
        fields.identifier("account_id", request.account_id)
        fields.enums("states", request.states, resources_pb2.ReservationState.values())
        size = fields.page_size(request.page_size)
        before = self._pages.position(fields, request)
        fields.check()
        states = tuple(map(int, request.states))
        found = await self._ledger.history.reservations(request.account_id, before, states, size + 1)
        reservations = fitting([convert.reservation(reservation) for reservation in found[:size]])
        last = found[len(reservations) - 1].revision if reservations else 0
        token = self._pages.token(request, last) if len(reservations) < len(found) else ""
        return pb.ListReservationsResponse(reservations=reservations, next_page_token=token)

    async def GetBalance(self, request: pb.GetBalanceRequest, context: Context) -> pb.GetBalanceResponse:
        fields = Fields()
        fields.identifier("account_id", request.account_id)
        at = request.WhichOneof("at")
        time = fields.time("at_time", request.at_time) if at == "at_time" else None
        revision = (
            fields.between("at_revision", request.at_revision, 1, 2**63 - 1) if at == "at_revision" else None
        )
        fields.check()
        if at is None:
            return _balance(await self._ledger.standing(request.account_id))
        return _balance(await self._ledger.history.past(request.account_id, revision, time))

    async def GetEntry(self, request: pb.GetEntryRequest, context: Context) -> pb.GetEntryResponse:
        fields = Fields()
        fields.identifier("account_id", request.account_id)
        revision = None
        match request.WhichOneof("key"):
            case "revision":
                revision = fields.between("revision", request.revision, 1, 2**63 - 1)
            case "request_id":
                fields.identifier("request_id", request.request_id)
            case None:
                fields.wrong("revision", "either revision or request_id is required")
        fields.check()
        entry = await self._ledger.history.entry(request.account_id, revision, request.request_id)
        return pb.GetEntryResponse(entry=convert.entry(entry))

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Context) -> pb.ListEntriesResponse:
        fields = Fields()
        fields.identifier("account_id", request.account_id)
        size = fields.page_size(request.page_size)
        which = requests.entry_filter(fields, request, self._pages.position(fields, request))
        fields.check()
        found = await self._ledger.history.entries(request.account_id, which, size + 1)
        entries = fitting([convert.entry(entry) for entry in found[:size]])
        token = self._pages.token(request, entries[-1].revision) if len(entries) < len(found) else ""
        return pb.ListEntriesResponse(entries=entries, next_page_token=token)

    async def SummarizeUsage(
        self, request: pb.SummarizeUsageRequest, context: Context
    ) -> pb.SummarizeUsageResponse:
        query = usage_summary.query(request)
        return usage_summary.response(await self._ledger.usage.summarize(query), query.bucket)

    async def WatchUsage(
        self, request: pb.WatchUsageRequest, context: Context
    ) -> AsyncIterator[pb.WatchUsageResponse]:
        fields = Fields()
        if len(request.account_ids) > MAX_WATCHED:
            fields.wrong("account_ids", f"must be at most {MAX_WATCHED} accounts")
        for index, account_id in enumerate(request.account_ids[:MAX_WATCHED]):
            fields.identifier(f"account_ids[{index}]", account_id)
        fields.enums("kinds", request.kinds, resources_pb2.EntryKind.values())
        interval = fields.duration("min_interval", request.min_interval, MAX_INTERVAL)
        fields.check()
        live = not request.cursor  # else once what was missed has been told
        async for message in self._watcher.watch(
            request.account_ids, request.cursor, frozenset(map(int, request.kinds)), interval / 1_000_000
        ):
            live = self.counts.delivers(message, live)
            if message.wire is None:
                message.wire = _watch_message(message)
            yield message.wire

    async def _write(self, command: Command, context: Context) -> Accepted:
        [answer] = await self._ledger.write([command], deadline_of(context, self._default_deadline))
        return accepted(answer)


def _command_or_refusal(request: pb.DeductRequest) -> Deduct | Refused:
    try:
        return requests.deduct(request)
    except Refused as refusal:
        return refusal


def _fill_deducted(response: pb.DeductResponse, answer: Accepted) -> None:
    entry = answer.entry
    convert.fill_entry(response.entry, entry)
    response.cost = entry.cost
    response.balance.CopyFrom(response.entry.balance)
    convert.fill_limits(response.limits, entry.limits)
    response.replayed = answer.replayed


def _fill_result(result: pb.BatchDeductResult, answer: Accepted | Refused) -> None:
    if isinstance(answer, Refused):
        result.status.CopyFrom(item_status(answer))
    else:
        _fill_deducted(result.response, answer)


def _can_perform(checked: Checked) -> pb.CanPerformResponse:
    evaluation = checked.evaluation
    return pb.CanPerformResponse(
        allowed=not evaluation.denials,
        denials=[
            pb.Denial(reason=reason_number(denial.reason), message=denial.message, shortfall=denial.shortfall)
            for denial in evaluation.denials
        ],
        cost=evaluation.cost,
        balance=convert.balance(checked.account),
        limits=convert.limits(evaluation.limits),
        catalog_version=checked.catalog_version,
        revision=checked.revision,
        decide_time=convert.timestamp(checked.now),
    )


def _balance(standing: Standing) -> pb.GetBalanceResponse:
    return pb.GetBalanceResponse(
        account=convert.account(standing.account),
        balance=convert.balance(standing.account),
        limits=convert.limits(standing.limits),
        grants=[convert.grant(grant, remaining) for grant, remaining in standing.grants],
        revision=standing.account.revision,
        read_time=convert.timestamp(standing.now),
    )


def _watch_message(message: Message) -> pb.WatchUsageResponse:
    body = message.body
    if isinstance(body, Entry):
        change = pb.UsageChange(entry=convert.entry(body), limits=convert.limits(body.limits))
        return pb.WatchUsageResponse(cursor=message.cursor, change=change)
    if isinstance(body, Summary):
        return pb.WatchUsageResponse(cursor=message.cursor, summary=_summary(body))
    if isinstance(body, Standing):
        return pb.WatchUsageResponse(cursor=message.cursor, snapshot=_snapshot(body))
    if body is Signal.CAUGHT_UP:
        return pb.WatchUsageResponse(cursor=message.cursor, caught_up=pb.CaughtUp())
    return pb.WatchUsageResponse(cursor=message.cursor, heartbeat=pb.Heartbeat())


def _summary(summary: Summary) -> pb.UsageSummary:
    return pb.UsageSummary(
        account_id=summary.last.account_id,
        from_revision=summary.from_revision,
        to_revision=summary.last.revision,
        changes=summary.changes,
        credits=summary.credits,
        balance=convert.balance(summary.last),
    )


def _snapshot(standing: Standing) -> pb.UsageSnapshot:
    return pb.UsageSnapshot(
        account=convert.account(standing.account),
        balance=convert.balance(standing.account),
        limits=convert.limits(standing.limits),
        revision=standing.account.revision,
        read_time=convert.timestamp(standing.now),
    )


def _field_invalid(field: str, rule: str) -> Refused:
    return Refused(Reason.FIELD_INVALID, f"invalid: {field}", violations=((field, rule),))
