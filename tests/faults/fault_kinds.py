"""The kinds of calls that clients make: how each is drawn at random, sent, and its answer noted.

A later kind of call is one more ``Kind`` in ``KINDS``, a share in ``MIX`` and, if it mutates, a rule of the model.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from creditledger.v1.error_reason_pb2 import ErrorReason
from fault_model import AMOUNTS, Entry
from google.protobuf.timestamp_pb2 import Timestamp

Content = dict[str, Any]

ENTRY_KINDS = {
    resources_pb2.ENTRY_KIND_OPENED: "open",
    resources_pb2.ENTRY_KIND_GRANTED: "grant",
    resources_pb2.ENTRY_KIND_DEDUCTED: "deduct",
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
    if kind == "grant" or chance.random() < 0.2:
        return "grant", {"amount": content.get("amount", 0) + 1, "priority": 0, "reason": "reused"}
    field = chance.choice(("quantity", "tokens"))
    return kind, {**content, field: content[field] + 1}


def digest(response: Any) -> str:
    """Stands for every field of an answer but ``replayed``, which is cleared."""
    response.replayed = False
    return hashlib.sha256(response.SerializeToString(deterministic=True)).hexdigest()[:16]


def watched_entry(change: pb.UsageChange) -> Entry:
    """The entry that a stream tells. A grant's priority is not in it."""
    entry = change.entry
    kind = ENTRY_KINDS.get(entry.kind, str(entry.kind))
    content: Content = {"level": entry.level}
    if kind == "deduct":
        content = _deduction(entry)
    elif kind == "grant":
        content = {"amount": entry.amount, "reason": entry.reason}
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
    return admin_pb.GrantCreditsRequest(request_id=request_id, account_id=account_id, **content)


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
        draw=lambda chance: {
            "amount": chance.randint(5, 40), "priority": chance.choice((0, 0, 1)), "reason": "bought",
        },
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

MIX = {"deduct": 40, "batch": 8, "can_perform": 14, "get_balance": 8, "grant": 5, "again": 14, "reuse": 8}
"""Shares of what clients do. ``batch`` is several deductions in one call, ``again`` an earlier request sent as it was,
``reuse`` an earlier id with other content."""
