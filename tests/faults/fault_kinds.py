"""The kinds of calls that clients make: how each is drawn at random, sent, and its answer noted.

A later kind of call is one more ``Kind`` in ``KINDS``, a share in ``MIX`` and, if it mutates, a rule of the model.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from creditledger.v1.error_reason_pb2 import ErrorReason
from fault_terms import AMOUNTS, Entry
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

Content = dict[str, Any]

ENTRY_KINDS = {
    resources_pb2.ENTRY_KIND_OPENED: "open",
    resources_pb2.ENTRY_KIND_GRANTED: "grant",
    resources_pb2.ENTRY_KIND_DEDUCTED: "deduct",
    resources_pb2.ENTRY_KIND_RESERVED: "reserve",
    resources_pb2.ENTRY_KIND_COMMITTED: "commit",
    resources_pb2.ENTRY_KIND_RELEASED: "release",
    resources_pb2.ENTRY_KIND_RESERVATION_EXPIRED: "reservation_expired",
    resources_pb2.ENTRY_KIND_EXTENDED: "extend",
    resources_pb2.ENTRY_KIND_REFUNDED: "refund",
    resources_pb2.ENTRY_KIND_GRANT_EXPIRED: "grant_expired",
}
"""The kind of call that each kind of entry comes from."""

_OPERATIONS = (
    ("chat_refinement",) * 12 + ("script_generation",) * 4 + ("video_processing",) * 2 + ("voice_creation",)
)


@dataclass(frozen=True)
class Kind:
    """One kind of call. ``facts`` reads what an OK answer tells."""

    draw: Callable[[random.Random], Content]
    request: Callable[[str, str, Content], Any]
    facts: Callable[[Any], dict[str, Any]]


def iso(time: Timestamp) -> str:
    """A time as the ledger writes it in errors: microseconds, Z."""
    return (
        datetime.fromtimestamp(time.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.nanos // 1000:06}Z"
    )


def amounts(balance: resources_pb2.Balance) -> dict[str, int]:
    """The five amounts of a balance."""
    return {name: getattr(balance, name) for name in AMOUNTS}


def limits(states: Sequence[resources_pb2.LimitState]) -> list[list[int]]:
    """[period, limit, used] of each."""
    return [[state.period, state.limit, state.used] for state in states]


def draws(of: Sequence[resources_pb2.Draw]) -> list[list[int]]:
    """[grant revision, amount] of each."""
    return [[int(draw.grant_id[1:]), draw.amount] for draw in of]


def other_content(kind: str, content: Content, chance: random.Random) -> tuple[str, Content]:
    """A request that is not the same: another field, or another method."""
    fields = [field for field in ("quantity", "tokens") if field in content]
    if not fields or chance.random() < 0.2:
        return "grant", {
            "amount": content.get("amount", 0) + 1,
            "priority": 0,
            "reason": "reused",
            "expire": "",
        }
    field = chance.choice(fields)
    return kind, {**content, field: content[field] + 1}


def digest(response: Any) -> str:
    """Stands for every field of an answer but ``replayed``, which is cleared."""
    response.replayed = False
    return hashlib.sha256(response.SerializeToString(deterministic=True)).hexdigest()[:16]


def watched_entry(change: pb.UsageChange) -> Entry:
    """The entry that a stream tells. A grant's priority is not in it."""
    entry = change.entry
    kind = ENTRY_KINDS.get(entry.kind, str(entry.kind))
    held = {"reservation": int(entry.reservation_id[1:] or 0)}
    contents: dict[str, Content] = {
        "open": {"level": entry.level},
        "deduct": _deduction(entry),
        "grant": {"amount": entry.amount, "reason": entry.reason},
        "reserve": {"operation": entry.operation, "quantity": entry.quantity},
        "commit": held | {"quantity": entry.quantity, "tokens": entry.usage.metrics.get("tokens", 0)},
        "refund": {"revision": entry.refunds_revision},
        "grant_expired": {"grant": int(entry.grant_id[1:] or 0)},
    }
    content = contents.get(kind, held)
    facts = {**_entry_facts(entry), "limits": limits(change.limits)}
    return Entry(
        entry.account_id, entry.revision, kind, entry.request_id, content, iso(entry.create_time), facts
    )


def _deduction(entry: resources_pb2.Entry) -> Content:
    tokens = entry.usage.metrics.get("tokens", 0)
    return {"operation": entry.operation, "quantity": entry.quantity, "tokens": tokens}


def _entry_facts(entry: resources_pb2.Entry) -> dict[str, Any]:
    return {
        "amount": entry.amount, "cost": entry.cost, "draws": draws(entry.draws), **amounts(entry.balance)
    }  # fmt: skip


def _told_entry(entry: resources_pb2.Entry) -> dict[str, Any]:
    return {"revision": entry.revision, "time": iso(entry.create_time), **_entry_facts(entry)}


def _draw_use(chance: random.Random) -> Content:
    return {"operation": chance.choice(_OPERATIONS), "quantity": chance.choice((1, 1, 1, 2, 5))}


def _usage(content: Content) -> resources_pb2.Usage | None:
    tokens = content["tokens"]
    return resources_pb2.Usage(service="openai", metrics={"tokens": tokens}) if tokens else None


def _deduct_request(request_id: str, account_id: str, content: Content) -> pb.DeductRequest:
    return pb.DeductRequest(
        request_id=request_id, account_id=account_id, operation=content["operation"],
        quantity=content["quantity"], usage=_usage(content),
    )  # fmt: skip


def _grant_request(request_id: str, account_id: str, content: Content) -> admin_pb.GrantCreditsRequest:
    terms = {name: value for name, value in content.items() if name != "expire"}
    request = admin_pb.GrantCreditsRequest(request_id=request_id, account_id=account_id, **terms)
    if content["expire"]:
        request.expire_time.FromJsonString(content["expire"])
    return request


def _draw_grant(chance: random.Random) -> Content:
    # Half of them end while the run lasts; what has ended before it arrives would be refused as a field.
    soon = datetime.now(UTC) + timedelta(seconds=chance.uniform(12, 20))
    expire = soon.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z" if chance.random() < 0.5 else ""
    amount, priority = chance.randint(5, 40), chance.choice((0, 0, 1))
    return {"amount": amount, "priority": priority, "reason": "bought", "expire": expire}


def _reserve_request(request_id: str, account_id: str, content: Content) -> pb.ReserveRequest:
    return pb.ReserveRequest(
        request_id=request_id, account_id=account_id, operation=content["operation"],
        quantity=content["quantity"], ttl=Duration(seconds=content["ttl"]),
    )  # fmt: skip


def _commit_request(request_id: str, account_id: str, content: Content) -> pb.CommitReservationRequest:
    return pb.CommitReservationRequest(
        request_id=request_id, account_id=account_id, reservation_id=f"r{content['reservation']}",
        quantity=content["quantity"], usage=_usage(content),
    )  # fmt: skip


def _reserve_facts(response: pb.ReserveResponse) -> dict[str, Any]:
    made = response.reservation
    told = {"revision": int(made.reservation_id[1:]), "time": iso(made.create_time)}
    return {**told, **amounts(response.balance), "limits": limits(response.limits)}


def _end_facts(response: pb.CommitReservationResponse | pb.ReleaseReservationResponse) -> dict[str, Any]:
    return _told_entry(response.entry) | amounts(response.balance) | {"limits": limits(response.limits)}


def _open_request(request_id: str, account_id: str, content: Content) -> admin_pb.OpenAccountRequest:
    return admin_pb.OpenAccountRequest(request_id=request_id, account_id=account_id, **content)


def _can_perform_facts(response: pb.CanPerformResponse) -> dict[str, Any]:
    denials = [
        [ErrorReason.Name(denial.reason).removeprefix("ERROR_REASON_"), denial.shortfall]
        for denial in response.denials
    ]
    return {
        "revision": response.revision, "time": iso(response.decide_time), "allowed": response.allowed,
        "denials": denials, "cost": response.cost, "limits": limits(response.limits), **amounts(response.balance),
    }  # fmt: skip


def _get_balance_facts(response: pb.GetBalanceResponse) -> dict[str, Any]:
    return {
        "revision": response.revision, "time": iso(response.read_time), "level": response.account.level,
        "lots": sorted([int(grant.grant_id[1:]), grant.remaining] for grant in response.grants),
        **amounts(response.balance),
    }  # fmt: skip


KINDS = {
    "open": Kind(
        draw=lambda chance: {"level": chance.choice(("free", "pro"))},
        request=_open_request,
        facts=lambda response: _told_entry(response.entry),
    ),
    "grant": Kind(
        draw=_draw_grant,
        request=_grant_request,
        facts=lambda response: _told_entry(response.entry) | amounts(response.balance),
    ),
    "deduct": Kind(
        draw=lambda chance: {**_draw_use(chance), "tokens": chance.choice((0, 0, chance.randint(1, 4_000)))},
        request=_deduct_request,
        facts=lambda response: _told_entry(response.entry)
        | amounts(response.balance)
        | {"cost": response.cost, "limits": limits(response.limits)},
    ),
    "reserve": Kind(
        draw=lambda chance: {**_draw_use(chance), "ttl": chance.choice((1, 1, 2, 3, 60))},
        request=_reserve_request,
        facts=_reserve_facts,
    ),
    "commit": Kind(
        draw=lambda chance: {"quantity": chance.choice((1, 1, 2, 3)), "tokens": chance.choice((0, 7))},
        request=_commit_request,
        facts=_end_facts,
    ),
    "release": Kind(
        draw=lambda _chance: {},
        request=lambda request_id, account_id, content: pb.ReleaseReservationRequest(
            request_id=request_id, account_id=account_id, reservation_id=f"r{content['reservation']}"
        ),
        facts=_end_facts,
    ),
    "extend": Kind(
        draw=lambda chance: {"ttl": chance.choice((1, 2, 60))},
        request=lambda request_id, account_id, content: pb.ExtendReservationRequest(
            request_id=request_id, account_id=account_id, reservation_id=f"r{content['reservation']}",
            ttl=Duration(seconds=content["ttl"]),
        ),
        facts=lambda _response: {},
    ),
    "refund": Kind(
        draw=lambda chance: {"amount": chance.choice((1, 1, 2, 3))},
        request=lambda request_id, account_id, content: pb.RefundRequest(
            request_id=request_id, account_id=account_id, **content
        ),
        facts=lambda response: _told_entry(response.entry) | amounts(response.balance),
    ),
    "can_perform": Kind(
        draw=_draw_use,
        request=lambda _id, account_id, content: pb.CanPerformRequest(account_id=account_id, **content),
        facts=_can_perform_facts,
    ),
    "get_balance": Kind(
        draw=lambda _chance: {},
        request=lambda _id, account_id, _content: pb.GetBalanceRequest(account_id=account_id),
        facts=_get_balance_facts,
    ),
}  # fmt: skip

NEEDS = {"commit": "reservation", "release": "reservation", "extend": "reservation", "refund": "revision"}
"""What a kind of call names of an earlier one, as a field of its content."""

MIX = {
    "deduct": 30, "batch": 8, "can_perform": 14, "get_balance": 8, "grant": 5, "again": 14, "reuse": 8,
    "reserve": 12, "commit": 7, "release": 2, "extend": 2, "refund": 3,
}  # fmt: skip
"""Shares of what clients do. ``batch`` is several deductions in one call, ``again`` an earlier request sent as it was,
``reuse`` an earlier id with other content."""
