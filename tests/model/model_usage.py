"""What the model answers to SummarizeUsage: the entries, added up one by one."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from fractions import Fraction
from functools import cache
from zoneinfo import ZoneInfo

from model_account import Account
from model_catalog import HOUR, Plain, from_datetime, to_datetime
from model_charges import failed

CHARGES = ("DEDUCTED", "COMMITTED")
QUARTER = HOUR // 4


def summarize(account: Account, request: Plain) -> Plain:
    """SummarizeUsage."""
    start, end = request.get("start_time", 0), request.get("end_time", 1 << 62)
    groups: dict[tuple[int, str], list[Plain]] = {}
    for entry in account.entries:
        if entry["kind"] in (*CHARGES, "REFUNDED") and start <= entry["create_time"] < end:
            begin = bucket_start(
                request.get("bucket", "NONE"), request.get("time_zone", "UTC"), entry["create_time"]
            )
            groups.setdefault((begin, entry["operation"]), []).append(entry)
    wanted = request.get("operations")
    return {"rows": [_row(*key, groups[key]) for key in sorted(groups) if not wanted or key[1] in wanted]}


def _row(begin: int, operation: str, entries: list[Plain]) -> Plain:
    attempts = [entry for entry in entries if entry["kind"] in CHARGES]
    usages = [entry.get("usage") or {} for entry in attempts]
    failures = sum(entry["quantity"] for entry in attempts if failed(entry.get("usage")))
    uses = sum(entry["quantity"] for entry in attempts) - failures
    metrics: Counter[str] = Counter()
    for usage in usages:
        for name, value in usage.get("metrics", {}).items():
            metrics[name] += value  # also where it is 0
    times = [usage["response_time"] for usage in usages if "response_time" in usage]
    charged = sum(entry["cost"] for entry in attempts)
    refunded = -sum(
        draw["amount"] for entry in entries if entry["kind"] == "REFUNDED" for draw in entry["draws"]
    )
    return {
        "operation": operation, "bucket_start": begin, "uses": uses, "failures": failures,
        "credits": charged - refunded, "average_credits": average(charged - refunded, uses),
        "metrics": dict(metrics), "response_time": sum(times) // len(times) if times else None,
    }  # fmt: skip


def average(credits_: int, uses: int) -> str:
    """Six places, halves away from zero."""
    if uses == 0:
        return "0.000000"
    millionths = int(Fraction(abs(credits_) * 10**6, uses) + Fraction(1, 2))
    sign = "-" if credits_ < 0 and millionths else ""
    return f"{sign}{millionths // 10**6}.{millionths % 10**6:06}"


def bucket_start(bucket: str, zone: str, time: int) -> int:
    """When the bucket that holds a time begins; 0 for NONE."""
    if bucket == "NONE":
        return 0
    day = to_datetime(time).astimezone(ZoneInfo(zone)).date()
    if bucket == "WEEK":
        day -= timedelta(days=day.weekday())
    elif bucket == "MONTH":
        day = day.replace(day=1)
    return _first_moment(zone, day)


@cache
def _first_moment(zone: str, day: date) -> int:
    """When the zone's clocks first show a date, or a later one: days begin on a quarter of an hour."""
    time = from_datetime(to_datetime(0).replace(day.year, day.month, day.day)) - 16 * HOUR
    while to_datetime(time).astimezone(ZoneInfo(zone)).date() < day:
        time += QUARTER
    return time
