"""An account of a real server that is told what happens to it, at times which the test sets to the microsecond."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from ledger_calls import Failure, Ledger, serving, unique
from ledger_clock import LedgerClock

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
"""When every story begins: a Sunday."""

MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
"""The smallest step of a ledger's time."""

ACTIVE, COMMITTED, RELEASED, EXPIRED = resources_pb2.ReservationState.values()[1:]
_PERIODS = {
    "daily": (10, resources_pb2.PERIOD_DAY),
    "weekly": (20, resources_pb2.PERIOD_WEEK),
    "monthly": (30, resources_pb2.PERIOD_MONTH),
    "once": (40, resources_pb2.PERIOD_LIFETIME),
}


def timed_catalog() -> resources_pb2.Catalog:
    """Voices at 5, 3 a day on free; chats at 1; texts by tokens; a level for every period of an allowance."""
    rate = resources_pb2.MetricRate(metric="tokens", amount=1, per=100)
    limit = resources_pb2.Limit(operation="voice", period=resources_pb2.PERIOD_DAY, limit=3)
    price = resources_pb2.Price(currency_code="EUR", amount="9.90")
    return resources_pb2.Catalog(
        operations=[
            resources_pb2.Operation(operation="voice", flat=resources_pb2.FlatPrice(amount=5)),
            resources_pb2.Operation(operation="chat", flat=resources_pb2.FlatPrice(amount=1)),
            resources_pb2.Operation(
                operation="text", metered=resources_pb2.MeteredPrice(rates=[rate], minimum=2)
            ),
        ],
        levels=[
            resources_pb2.Level(level="free", limits=[limit]),
            resources_pb2.Level(level="pro"),
            *(
                resources_pb2.Level(
                    level=name, allowance=resources_pb2.Allowance(credits=amount, period=period)
                )
                for name, (amount, period) in _PERIODS.items()
            ),
        ],
        packages=[
            resources_pb2.CreditPackage(package_id=name, credits=amount, price=price)
            for name, amount in {"starter": 100, "studio": 500}.items()
        ],
        default_level="free",
    )


@dataclass(frozen=True)
class TimedLedger:
    """Calls to a server without a sweeper, and the clock of its database."""

    calls: Ledger
    clock: LedgerClock

    def story(self, level: str = "pro", credits: int = 0) -> Story:
        """A new account, opened at noon."""
        self.clock.set(NOON)
        return Story(self, self.calls.open(level=level, credits_=credits))


@contextmanager
def timed_ledger(dsn: str) -> Iterator[TimedLedger]:
    """A server on a database in which it is noon until a test says otherwise."""
    clock = LedgerClock(dsn, NOON)
    with serving(dsn, env={"CREDITLEDGER_SWEEPER": "false"}) as (_, calls):
        calls.call(admin_pb.UpdateCatalogRequest(request_id=unique(), catalog=timed_catalog()))
        yield TimedLedger(calls, clock)


class Story:
    """What happens to one account. Amounts and uses are of the catalog above."""

    def __init__(self, timed: TimedLedger, account: str) -> None:
        self._timed, self.account = timed, account

    def at(self, time: datetime) -> None:
        """Makes it this time."""
        self._timed.clock.set(time)

    def send(self, kind: type[Message], **fields: Any) -> Any:
        """The answer to a request about the account, under a new request id if it takes one."""
        return self._timed.calls.call(self.request(kind, **fields))

    def refused(self, kind: type[Message], **fields: Any) -> Failure:
        """How such a request fails; asserts that it changes nothing but what time does."""
        before = self.mutations()
        failure = self._timed.calls.refusal(self.request(kind, **fields))
        assert self.mutations() == before
        return failure

    def request(self, kind: type[Message], **fields: Any) -> Message:
        """The request; times may be given as Python has them."""
        if "request_id" in kind.DESCRIPTOR.fields_by_name and kind is not pb.GetEntryRequest:
            fields.setdefault("request_id", unique())
        told = {name: to_proto(value) for name, value in fields.items()}
        return kind(account_id=self.account, **told)

    def grant(self, amount: int, **fields: Any) -> str:
        """Grants credits; returns the grant's name."""
        name: str = self.send(admin_pb.GrantCreditsRequest, amount=amount, **fields).grant.grant_id
        return name

    def deduct(self, quantity: int = 1, operation: str = "voice", **fields: Any) -> pb.DeductResponse:
        """Charges uses."""
        answer: pb.DeductResponse = self.send(
            pb.DeductRequest, operation=operation, quantity=quantity, **fields
        )
        return answer

    def reserve(self, quantity: int = 1, operation: str = "voice", **fields: Any) -> str:
        """Sets the cost of uses aside; returns the reservation's name."""
        answer: pb.ReserveResponse = self.send(
            pb.ReserveRequest, operation=operation, quantity=quantity, **fields
        )
        return answer.reservation.reservation_id

    def commit(self, name: str, **fields: Any) -> pb.CommitReservationResponse:
        """Charges what a reservation came to."""
        answer: pb.CommitReservationResponse = self.send(
            pb.CommitReservationRequest, reservation_id=name, **fields
        )
        return answer

    def release(self, name: str) -> pb.ReleaseReservationResponse:
        """Gives a reservation back."""
        answer: pb.ReleaseReservationResponse = self.send(pb.ReleaseReservationRequest, reservation_id=name)
        return answer

    def refund(self, entry: resources_pb2.Entry, amount: int = 0) -> pb.RefundResponse:
        """Gives back what an entry charged."""
        answer: pb.RefundResponse = self.send(pb.RefundRequest, revision=entry.revision, amount=amount)
        return answer

    def update(self, *, level: str = "", state: Any = 0) -> None:
        """Changes the level or the state."""
        mask = {"paths": ["level" if level else "state"]}
        self.send(admin_pb.UpdateAccountRequest, update_mask=mask, level=level, state=state)

    def reservation(self, name: str) -> resources_pb2.Reservation:
        """A reservation as it stands."""
        answer: pb.GetReservationResponse = self.send(pb.GetReservationRequest, reservation_id=name)
        return answer.reservation

    @property
    def balance(self) -> tuple[int, int, int, int]:
        """Available, reserved, spent, forfeited."""
        return parts(self.send(pb.GetBalanceRequest).balance)

    @property
    def remaining(self) -> dict[str, int]:
        """What remains of every grant, also of those that have ended, newest first."""
        answer: admin_pb.ListGrantsResponse = self.send(admin_pb.ListGrantsRequest)
        return {grant.grant_id: grant.remaining for grant in answer.grants}

    @property
    def used(self) -> int:
        """How many of the voices of the day are used; the level must be free."""
        [limit] = self.send(pb.CanPerformRequest, operation="voice").limits
        used: int = limit.used
        return used

    def entries(self) -> list[resources_pb2.Entry]:
        """The history, oldest first."""
        return self._timed.calls.entries(self.account)

    def mutations(self) -> int:
        """How many entries requests have written, and not time."""
        return sum(bool(entry.request_id) for entry in self.entries())

    def history(self, first: int = 1) -> list[tuple[str, timedelta]]:
        """The kinds of the entries from a revision on, and how long after noon each was."""
        return [
            (kind.removeprefix("ENTRY_KIND_"), when(entry.create_time) - NOON)
            for entry in self.entries()[first - 1 :]
            for kind in [resources_pb2.EntryKind.Name(entry.kind)]
        ]

    def verified(self) -> bool:
        """Whether the entries, and what is kept beside them, say the same."""
        answer: admin_pb.VerifyAccountResponse = self.send(admin_pb.VerifyAccountRequest)
        return answer.valid


def parts(balance: resources_pb2.Balance) -> tuple[int, int, int, int]:
    """Available, reserved, spent, forfeited; asserts that they are all that was granted."""
    found = (balance.available, balance.reserved, balance.spent, balance.forfeited)
    assert sum(found) == balance.granted
    return found


def draws(entry: resources_pb2.Entry) -> list[tuple[str, int]]:
    """What an entry took from each grant, or with a minus gave back."""
    return [(draw.grant_id, draw.amount) for draw in entry.draws]


def when(time: Timestamp) -> datetime:
    """A time as Python has it."""
    return time.ToDatetime(UTC)


def to_proto(value: Any) -> Any:
    """A time or duration as messages have it; anything else as it is."""
    if isinstance(value, datetime):
        told = Timestamp()
        told.FromDatetime(value)
        return told
    if isinstance(value, timedelta):
        return Duration(seconds=value.days * 86_400 + value.seconds, nanos=value.microseconds * 1_000)
    return value
