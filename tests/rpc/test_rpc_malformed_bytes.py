"""Bytes that are no message, or not the one that they should be: nothing is written, and the next call works."""

from __future__ import annotations

import pytest
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from ledger_calls import KNOWN, Ledger, deduction


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def text_field(number: int, data: bytes) -> bytes:
    """A length-delimited field as it is on the wire."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def deep_struct(depth: int) -> bytes:
    """DeductRequest.usage.metadata, so deep that the parser itself refuses it."""
    value = text_field(3, b"x")
    for _ in range(depth):
        value = text_field(5, text_field(1, text_field(1, b"k") + text_field(2, value)))
    return text_field(6, text_field(6, text_field(1, text_field(1, b"k") + text_field(2, value))))


GOOD = deduction(KNOWN, request_id="wire").SerializeToString()
NO_MESSAGE = {
    "invalid UTF-8": ("DeductRequest", text_field(1, b"\xff\xfe") + GOOD),
    "overlong UTF-8": ("DeductRequest", text_field(2, b"\xc0\xaf") + GOOD),
    "a surrogate in UTF-8": ("DeductRequest", text_field(4, b"\xed\xa0\x80") + GOOD),
    "invalid UTF-8 in usage.service": ("DeductRequest", GOOD + text_field(6, text_field(1, b"\x80"))),
    "invalid UTF-8 in a metric": (
        "DeductRequest",
        GOOD + text_field(6, text_field(2, text_field(1, b"\xff") + b"\x10\x01")),
    ),
    "invalid UTF-8 in labels": (
        "GrantCreditsRequest",
        text_field(8, text_field(1, b"k") + text_field(2, b"\xff")),
    ),
    "invalid UTF-8 in account_ids": ("WatchUsageRequest", text_field(1, b"\xff")),
    "invalid UTF-8 in an item": ("BatchDeductRequest", text_field(1, text_field(1, b"\xff"))),
    "invalid UTF-8 in the catalog": ("UpdateCatalogRequest", text_field(2, text_field(4, b"\xff"))),
    "truncated": ("DeductRequest", GOOD[:-1]),
    "a length beyond the end": ("DeductRequest", GOOD + b"\x0a\xff\xff\x7f"),
    "a varint without an end": ("DeductRequest", GOOD + b"\x28" + b"\xff" * 11),
    "field number 0": ("DeductRequest", b"\x02\x00" + GOOD),
    "an end without its group": ("DeductRequest", GOOD + b"\x0c"),
    "10,000 groups": ("DeductRequest", GOOD + b"\xfb\x7f" * 10_000),
    "10,000 deep": ("DeductRequest", GOOD + deep_struct(3_000)),
    "wire type 7": ("GetBalanceRequest", b"\x0f\x01"),
    "noise": ("CanPerformRequest", b"\xff\xff\xff\xff"),
    "a page": ("ListEntriesRequest", b"GET / HTTP/1.1\r\n\r\n"),
}


@pytest.mark.parametrize("case", NO_MESSAGE.values(), ids=NO_MESSAGE.keys())
@pytest.mark.usefixtures("untouched")
def test_bytes_that_are_no_such_message_are_refused_as_a_bad_request(
    ledger: Ledger, case: tuple[str, bytes]
) -> None:
    failure = ledger.refusal(case)

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert list(failure.fields) == [""]


WRONG_TYPES = {
    "account_id as a number": ("DeductRequest", b"\x10\x05", "account_id"),
    "quantity as a text": ("CanPerformRequest", text_field(4, b"5"), "account_id"),
    "no bytes": ("DeductRequest", b"", "request_id"),
    "no bytes to grant": ("GrantCreditsRequest", b"", "amount"),
    "amount as a text": (
        "GrantCreditsRequest",
        admin_pb.GrantCreditsRequest(request_id="wire", account_id=KNOWN).SerializeToString() + text_field(3, b"5"),
        "amount",
    ),
    "amount of 10 bytes": (
        "GrantCreditsRequest",
        admin_pb.GrantCreditsRequest(request_id="wire", account_id=KNOWN).SerializeToString()
        + b"\x18" + b"\xff" * 9 + b"\x01",
        "amount",
    ),
    "quantity twice, the last one bad": ("DeductRequest", GOOD + b"\x28\x05\x28\x00", "quantity"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "data", "field"), WRONG_TYPES.values(), ids=WRONG_TYPES.keys())
@pytest.mark.usefixtures("untouched")
def test_a_field_of_another_wire_type_is_no_value(ledger: Ledger, kind: str, data: bytes, field: str) -> None:
    failure = ledger.refusal((kind, data))

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert field in failure.fields
