"""From the domain's objects to the messages of the protos."""

from __future__ import annotations

import json
from collections.abc import Iterable

from creditledger.v1 import resources_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from ..domain.account import Account, Grant
from ..domain.entry import Entry, EntryKind, LimitState
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


def balance(of: Account | Entry) -> pb.Balance:
    """The balance of an account, or the one after an entry."""
    return pb.Balance(
        available=of.available,
        reserved=of.reserved,
        granted=of.granted,
        spent=of.spent,
        forfeited=of.forfeited,
    )


def limit(state: LimitState) -> pb.LimitState:
    """Where an account stands against a limit."""
    return pb.LimitState(
        operation=state.operation,
        period=int(state.period),  # type: ignore[arg-type]
        limit=state.limit,
        used=state.used,
        reset_time=None if state.reset_time is None else timestamp(state.reset_time),
    )


def limits(states: Iterable[LimitState]) -> list[pb.LimitState]:
    """Where an account stands against several limits."""
    return [limit(state) for state in states]


def entry(of: Entry) -> pb.Entry:
    """An entry."""
    message = pb.Entry(
        account_id=of.account_id,
        revision=of.revision,
        kind=int(of.kind),  # type: ignore[arg-type]
        operation=of.operation or "",
        quantity=of.quantity,
        amount=of.amount,
        cost=of.cost,
        balance=balance(of),
        draws=[pb.Draw(grant_id=grant_id(revision), amount=amount) for revision, amount in of.draws],
        request_id=of.request_id or "",
        catalog_version=of.catalog_version,
        create_time=timestamp(of.create_time),
        hash=of.hash,
    )
    if of.usage is not None:
        message.usage.CopyFrom(usage(Usage.from_json(of.usage)))
    if of.details is not None:
        message.level = of.detail("level")
        message.reason = of.detail("reason")
    if of.kind is EntryKind.GRANTED:
        message.grant_id = grant_id(of.revision)
    return message


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


def grant(of: Grant, remaining: int) -> pb.Grant:
    """A grant with what is left of it."""
    return pb.Grant(
        grant_id=grant_id(of.revision),
        account_id=of.account_id,
        amount=of.amount,
        remaining=remaining,
        priority=of.priority,
        source=of.source,  # type: ignore[arg-type]
        create_time=timestamp(of.create_time),
        reason=of.reason,
        labels=json.loads(of.labels),
    )


def new_grant(of: Entry) -> pb.Grant:
    """The grant as its entry made it."""
    terms = json.loads(of.details or "{}")
    return pb.Grant(
        grant_id=grant_id(of.revision), account_id=of.account_id, amount=of.amount, remaining=of.amount,
        priority=terms["priority"], source=terms["source"], create_time=timestamp(of.create_time),
        reason=terms["reason"], labels=terms["labels"],
    )  # fmt: skip
