"""From the domain's objects to the messages of the protos."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from creditledger.v1 import resources_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from ..domain.account import Account, AccountState, Grant
from ..domain.entry import Entry, EntryKind, LimitState
from ..domain.lots import NEVER
from ..domain.reservation import Reservation
from ..domain.usage import Usage


def timestamp(micros: int) -> Timestamp:
    """A time."""
    seconds, rest = divmod(micros, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)


def duration(micros: int) -> Duration:
    """A duration."""
    seconds, rest = divmod(micros, 1_000_000)
    return Duration(seconds=seconds, nanos=rest * 1_000)


def grant_id(revision: int) -> str:
    """The name of the grant that the entry of ``revision`` made."""
    return f"g{revision}"


def reservation_id(revision: int) -> str:
    """The name of the reservation that the entry of ``revision`` made."""
    return f"r{revision}"


def balance(of: Account | Entry) -> pb.Balance:
    """The balance of an account, or the one after an entry."""
    message = pb.Balance()
    fill_balance(message, of)
    return message


def limit(state: LimitState) -> pb.LimitState:
    """Where an account stands against a limit."""
    message = pb.LimitState()
    _fill_limit(message, state)
    return message


def limits(states: Iterable[LimitState]) -> list[pb.LimitState]:
    """Where an account stands against several limits."""
    return [limit(state) for state in states]


def entry(of: Entry) -> pb.Entry:
    """An entry."""
    message = pb.Entry()
    fill_entry(message, of)
    return message


# What follows fills messages in place. To build the parts first and hand them to the constructor of the whole copies
# each of them once per level, and took three times as long for the answers to a batch.


def fill_balance(message: pb.Balance, of: Account | Entry) -> None:
    """The balance of an account, or the one after an entry."""
    message.available = of.available
    message.reserved = of.reserved
    message.granted = of.granted
    message.spent = of.spent
    message.forfeited = of.forfeited


def fill_limits(
    messages: RepeatedCompositeFieldContainer[pb.LimitState], states: Iterable[LimitState]
) -> None:
    """Where an account stands against several limits."""
    for state in states:
        _fill_limit(messages.add(), state)


def fill_entry(message: pb.Entry, of: Entry) -> None:
    """An entry."""
    message.account_id = of.account_id
    message.revision = of.revision
    message.kind = of.kind  # type: ignore[assignment]
    message.operation = of.operation or ""
    message.quantity = of.quantity
    message.amount = of.amount
    message.cost = of.cost
    fill_balance(message.balance, of)
    for revision, amount in of.draws:
        draw = message.draws.add()
        draw.grant_id = grant_id(revision)
        draw.amount = amount
    message.request_id = of.request_id or ""
    message.catalog_version = of.catalog_version
    _fill_time(message.create_time, of.create_time)
    message.hash = of.hash
    if of.usage is not None:
        message.usage.CopyFrom(usage(Usage.from_json(of.usage)))
    if of.details is not None:
        _fill_details(message, of)


def _fill_details(message: pb.Entry, of: Entry) -> None:
    told = of.told()
    message.level = told.get("level", "")
    message.reason = told.get("reason", "")
    message.refunds_revision = told.get("refunds", 0)
    if of.kind is EntryKind.GRANTED or (of.kind is EntryKind.ADJUSTED and of.amount > 0):
        message.grant_id = grant_id(of.revision)
    elif "grant" in told:
        message.grant_id = grant_id(told["grant"])
    if of.kind is EntryKind.RESERVED:
        message.reservation_id = reservation_id(of.revision)
    elif "reservation" in told:
        message.reservation_id = reservation_id(told["reservation"])


def _fill_limit(message: pb.LimitState, state: LimitState) -> None:
    message.operation = state.operation
    message.period = state.period  # type: ignore[assignment]
    message.limit = state.limit
    message.used = state.used
    if state.reset_time is not None:
        _fill_time(message.reset_time, state.reset_time)


def _fill_time(message: Timestamp, micros: int) -> None:
    message.seconds, rest = divmod(micros, 1_000_000)
    message.nanos = rest * 1_000


def usage(of: Usage) -> pb.Usage:
    """What a use was."""
    message = pb.Usage(
        service=of.service,
        metrics=of.metrics,
        response_time=None if of.response_time is None else duration(of.response_time),
        outcome=pb.Usage.OUTCOME_FAILED if of.failed else pb.Usage.OUTCOME_SUCCEEDED,
        occur_time=None if of.occur_time is None else timestamp(of.occur_time),
    )
    if of.metadata is not None:
        message.metadata.CopyFrom(Struct())
        message.metadata.update(of.metadata)
    return message


def account(of: Account) -> pb.Account:
    """An account."""
    return pb.Account(
        account_id=of.account_id,
        level=of.level,
        state=int(of.state),  # type: ignore[arg-type]
        labels=json.loads(of.labels),
        revision=of.revision,
        create_time=timestamp(of.create_time),
        update_time=timestamp(of.last_time),
    )


def opened_account(of: Entry) -> pb.Account:
    """The account as its first entry opened it."""
    details = json.loads(of.details or "{}")
    time = timestamp(of.create_time)
    return pb.Account(
        account_id=of.account_id, level=details["level"], state=pb.ACCOUNT_STATE_ACTIVE, labels=details["labels"],
        revision=of.revision, create_time=time, update_time=time,
    )  # fmt: skip


def updated_account(of: Entry) -> pb.Account:
    """The account as an entry of UpdateAccount left it."""
    told = json.loads(of.details or "{}")
    return pb.Account(
        account_id=of.account_id, level=told["level"], labels=told["labels"], revision=of.revision,
        state=AccountState[told["state"]],  # type: ignore[arg-type]
        create_time=timestamp(told["create_time_us"]), update_time=timestamp(of.create_time),
    )  # fmt: skip


def grant(of: Grant, remaining: int) -> pb.Grant:
    """A grant with what is left of it."""
    return pb.Grant(
        grant_id=grant_id(of.revision),
        account_id=of.account_id,
        amount=of.amount,
        remaining=remaining,
        priority=of.priority,
        source=of.source,  # type: ignore[arg-type]
        effective_time=optional_time(of.effective_time),
        expire_time=None if of.expire_time == NEVER else timestamp(of.expire_time),
        create_time=timestamp(of.create_time),
        reason=of.reason,
        labels=json.loads(of.labels),
    )


def new_grant(of: Entry) -> pb.Grant:
    """The grant as its entry made it."""
    told = of.told()
    amount = told.get("amount", of.amount)
    return _told_grant(of, told, of.revision, amount, amount, of.create_time, told["labels"])


def voided_grant(of: Entry) -> pb.Grant:
    """The grant as the entry that voided it left it."""
    told = of.told()
    terms = told["terms"]
    labels = json.loads(terms["labels"])
    return _told_grant(of, terms, told["grant"], terms["amount"], 0, terms["create_time_us"], labels)


def _told_grant(
    of: Entry,
    terms: Mapping[str, Any],
    revision: int,
    amount: int,
    remaining: int,
    create_time: int,
    labels: Mapping[str, str],
) -> pb.Grant:
    return pb.Grant(
        grant_id=grant_id(revision), account_id=of.account_id, amount=amount, remaining=remaining,
        priority=terms["priority"], source=terms["source"], reason=terms["reason"], labels=labels,
        effective_time=optional_time(terms.get("effective_time_us")),
        expire_time=optional_time(terms.get("expire_time_us")), create_time=timestamp(create_time),
    )  # fmt: skip


def reservation(of: Reservation) -> pb.Reservation:
    """A reservation."""
    return pb.Reservation(
        reservation_id=reservation_id(of.revision), account_id=of.account_id, operation=of.operation,
        quantity=of.quantity, amount=of.amount, state=int(of.state),  # type: ignore[arg-type]
        create_time=timestamp(of.create_time), expire_time=timestamp(of.expire_time),
        catalog_version=of.catalog_version,
    )  # fmt: skip


def told_reservation(of: Entry) -> pb.Reservation:
    """The reservation as the entry that made or extended it left it."""
    told = of.told()
    return pb.Reservation(
        reservation_id=reservation_id(told.get("reservation", of.revision)), account_id=of.account_id,
        operation=of.operation or "", quantity=of.quantity, amount=told.get("amount", -of.amount),
        state=pb.RESERVATION_STATE_ACTIVE, create_time=timestamp(told.get("create_time_us", of.create_time)),
        expire_time=timestamp(told["expire_time_us"]), catalog_version=of.catalog_version,
    )  # fmt: skip


def optional_time(micros: int | None) -> Timestamp | None:
    """A time, or None."""
    return None if micros is None else timestamp(micros)
