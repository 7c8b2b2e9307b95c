"""SummarizeUsage: from the request to what is asked for, and from sums to rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from creditledger.v1 import credit_ledger_pb2 as pb

from ..domain.refusal import Reason, Refused
from ..domain.usage_summary import UsageBucket, UsageQuery, UsageSums, average
from .convert import duration, timestamp
from .validate import Fields

MAX_OPERATIONS = 1_000
MAX_RESPONSE_BYTES = 4 << 20  # what grpc clients take unless told otherwise
MAX_INT64 = 2**63 - 1

# As IANA writes them. What else lies beside them on a disk ("localtime", "posixrules") is not the same everywhere.
_ZONE = re.compile(r"\A[A-Z][A-Za-z0-9_+-]{0,31}(/[A-Za-z0-9_+-]{1,32}){0,2}\Z")


def query(request: pb.SummarizeUsageRequest) -> UsageQuery:
    """What the request asks for; raises Refused with everything that is wrong in it."""
    fields = Fields()
    fields.identifier("account_id", request.account_id)
    if len(request.operations) > MAX_OPERATIONS:
        fields.wrong("operations", f"must be at most {MAX_OPERATIONS:,} operations")
    for index, operation in enumerate(request.operations[:MAX_OPERATIONS]):
        fields.name(f"operations[{index}]", operation)
    start = fields.time("start_time", request.start_time) if request.HasField("start_time") else None
    end = fields.time("end_time", request.end_time) if request.HasField("end_time") else None
    if start is not None and end is not None and end < start:
        fields.wrong("end_time", "must not be earlier than start_time")
    if request.bucket not in pb.UsageBucket.values():
        fields.wrong("bucket", "must be a known value")
    zone = _zone(fields, request.time_zone)
    fields.check()
    bucket = UsageBucket(request.bucket or pb.USAGE_BUCKET_NONE)
    return UsageQuery(request.account_id, tuple(request.operations), start, end, bucket, zone)


def response(sums: Iterable[UsageSums], bucket: UsageBucket) -> pb.SummarizeUsageResponse:
    """The rows; raises Refused where they do not fit into a message."""
    answer = pb.SummarizeUsageResponse()
    for each in sums:
        if max(each.uses, each.failures, abs(each.credits), *each.metrics.values()) > MAX_INT64:
            raise _refused("must be finer, or the span shorter: a sum exceeds 64 bits")
        row = answer.rows.add(
            operation=each.operation,
            bucket_start=None if bucket is UsageBucket.NONE else timestamp(each.bucket_start),
            uses=each.uses,
            failures=each.failures,
            credits=each.credits,
            average_credits=average(each.credits, each.uses),
            metrics=each.metrics,
        )
        if each.response_times:
            row.response_time.CopyFrom(duration(each.response_time // each.response_times))
    if answer.ByteSize() > MAX_RESPONSE_BYTES:
        raise _refused("must be coarser, or operations or the span fewer: the answer exceeds 4 MiB")
    return answer


def _zone(fields: Fields, name: str) -> tzinfo:
    """The time zone of that name, UTC for none; notes a violation if there is no such."""
    if not name:
        return UTC
    try:
        if _ZONE.fullmatch(name):
            return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):  # depending on what lies there instead
        pass
    fields.wrong("time_zone", "must be the name of an IANA time zone, for example Europe/Berlin")
    return UTC


def _refused(rule: str) -> Refused:
    return Refused(Reason.FIELD_INVALID, "invalid: bucket", violations=(("bucket", rule),))
