"""Which fields of a request break their rules: those rules of the protos that the generator breaks."""

from __future__ import annotations

from model_catalog import HOUR, SECOND, Plain

MOST = 10**15
RANGES: dict[str, tuple[int, int]] = {
    "quantity": (1, 10**9),
    "priority": (-1_000, 1_000),
    "ttl": (SECOND, 24 * HOUR),
}
AMOUNTS: dict[str, tuple[int, int]] = {
    "GrantCredits": (1, MOST),
    "AdjustBalance": (-MOST, MOST),
    "Refund": (0, MOST),
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "ExtendReservation": ("ttl", "reservation_id"),
    "ReleaseReservation": ("reservation_id",),
    "CommitReservation": ("reservation_id",),
    "VoidGrant": ("grant_id",),
    "AdjustBalance": ("amount", "reason"),
    "GrantCredits": ("amount",),
    "Refund": ("revision",),
    "PurchasePackage": ("package_id", "payment_reference"),
    "Deduct": ("operation",),
    "Reserve": ("operation",),
    "CanPerform": ("operation",),
}


def bad_fields(method: str, request: Plain) -> list[str]:
    """The fields that break a rule, sorted."""
    bad = {name for name in REQUIRED.get(method, ()) if not request.get(name)}
    ranges = {**RANGES, **({"amount": AMOUNTS[method]} if method in AMOUNTS else {})}
    bad |= {name for name, (low, high) in ranges.items() if not low <= request.get(name, low) <= high}
    if len(request.get("reason", "")) > 1_024:
        bad.add("reason")
    effective, expires = request.get("effective_time"), request.get("expire_time")
    if effective is not None and expires is not None and expires <= effective:
        bad.add("expire_time")
    if method == "SummarizeUsage" and request.get("end_time", 1 << 62) < request.get("start_time", 0):
        bad.add("end_time")
    return sorted(bad)
