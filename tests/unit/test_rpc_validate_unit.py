"""The rules of request fields: each at both sides of its border, and all violations of a request at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from creditledger.v1 import resources_pb2 as pb
from creditledger.v1.credit_ledger_pb2 import CanPerformRequest, DeductRequest
from creditledger_server.domain.commands import Deduct
from creditledger_server.domain.names import MAX_AMOUNT, MAX_QUANTITY
from creditledger_server.domain.refusal import Reason, Refused
from creditledger_server.domain.usage import Usage
from creditledger_server.rpc.validate import DEFAULT_PAGE, MAX_PAGE, Fields
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

YEAR = 366 * 86_400


def wrong_in(read: Callable[[Fields], object]) -> list[str]:
    """The fields that a reading finds wrong."""
    fields = Fields()
    read(fields)
    return [field for field, _ in fields.violations]


def fine(read: Callable[[Fields], object]) -> bool:
    return not wrong_in(read)


# ── All at once ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_violation_is_no_refusal() -> None:
    Fields().check()


def test_all_violations_are_told_at_once_in_the_order_of_the_fields() -> None:
    fields = Fields()
    fields.identifier("request_id", "")
    fields.identifier("account_id", "ann")
    fields.name("operation", "Voice")
    fields.quantity(DeductRequest(quantity=0))
    fields.usage(pb.Usage(service="x" * 129, metrics={"Bad": -1}, outcome=7))  # type: ignore[arg-type]
    with pytest.raises(Refused) as caught:
        fields.check()
    refused = caught.value
    assert refused.reason is Reason.FIELD_INVALID
    assert [field for field, _ in refused.violations] == [
        "request_id",
        "operation",
        "quantity",
        "usage.outcome",
        "usage.service",
        "usage.metrics['Bad']",
        "usage.metrics['Bad']",
    ]
    assert refused.message.startswith("invalid: request_id, operation, quantity, usage.outcome")


def test_every_violation_is_kept_but_the_message_names_ten() -> None:
    fields = Fields()
    for number in range(1_000):
        fields.wrong(f"f{number}", "is wrong")
    with pytest.raises(Refused) as caught:
        fields.check()
    assert len(caught.value.violations) == 1_000
    assert caught.value.message == "invalid: f0, f1, f2, f3, f4, f5, f6, f7, f8, f9"


def test_a_violation_without_a_field_is_one_of_the_request() -> None:
    fields = Fields()
    fields.wrong("", "is no message")
    with pytest.raises(Refused, match="invalid: request"):
        fields.check()


# ── Names and ids ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", ["a", "A.b_c:d@e/f+g=h-9", "0", "-", "x" * 128])
def test_ids_are_accepted(value: str) -> None:
    assert fine(lambda fields: fields.identifier("account_id", value))


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "ä", "a\n", "\na", "a\0", "a,b", "😀", "a\\b", '"'])
def test_what_is_no_id_is_refused(value: str) -> None:
    assert wrong_in(lambda fields: fields.identifier("account_id", value)) == ["account_id"]


@pytest.mark.parametrize("value", ["a", "voice_creation", "a9_", "x" * 64])
def test_names_are_accepted(value: str) -> None:
    assert fine(lambda fields: fields.name("operation", value))


@pytest.mark.parametrize("value", ["", "9a", "_a", "A", "a-b", "x" * 65, "a\n", "ä", "a b"])
def test_what_is_no_name_is_refused(value: str) -> None:
    assert wrong_in(lambda fields: fields.name("operation", value)) == ["operation"]


def test_an_optional_name_may_be_absent_but_not_wrong() -> None:
    fields = Fields()
    assert (fields.optional_name("level", ""), fields.optional_name("level", "pro")) == (None, "pro")
    assert not fields.violations
    assert wrong_in(lambda fields: fields.optional_name("level", "Pro")) == ["level"]


# ── Numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [DeductRequest, CanPerformRequest])
def test_an_absent_quantity_is_one_and_zero_is_an_error(
    kind: type[DeductRequest] | type[CanPerformRequest],
) -> None:
    assert Fields().quantity(kind()) == 1 == Fields().quantity(kind(quantity=1))
    for quantity in (0, -1, MAX_QUANTITY + 1, 2**63 - 1, -(2**63)):
        request = kind(quantity=quantity)
        assert wrong_in(lambda fields, request=request: fields.quantity(request)) == ["quantity"]  # type: ignore[misc]
    assert fine(lambda fields: fields.quantity(kind(quantity=MAX_QUANTITY)))


def test_an_absent_quantity_is_the_same_request_as_one() -> None:
    commands = [
        Deduct("r", "ann", "voice", Fields().quantity(request))
        for request in (DeductRequest(), DeductRequest(quantity=1))
    ]
    assert commands[0].fingerprint() == commands[1].fingerprint()


@pytest.mark.parametrize("value", [1, MAX_AMOUNT])
def test_amounts_are_accepted(value: int) -> None:
    assert fine(lambda fields: fields.amount("amount", value))


@pytest.mark.parametrize("value", [0, -1, MAX_AMOUNT + 1, 2**63 - 1, -(2**63)])
def test_what_is_no_amount_is_refused(value: int) -> None:
    assert wrong_in(lambda fields: fields.amount("amount", value)) == ["amount"]


@pytest.mark.parametrize(
    ("asked", "given_"),
    [(0, DEFAULT_PAGE), (1, 1), (MAX_PAGE, MAX_PAGE), (MAX_PAGE + 1, MAX_PAGE), (2**31 - 1, MAX_PAGE)],
)
def test_a_page_has_a_default_and_a_largest_size(asked: int, given_: int) -> None:
    assert Fields().page_size(asked) == given_


def test_a_negative_page_size_is_refused() -> None:
    assert wrong_in(lambda fields: fields.page_size(-1)) == ["page_size"]


@pytest.mark.parametrize(
    ("values", "wrong"),
    [([], []), ([1, 2, 1], []), ([0], ["kinds[0]"]), ([1, 99, -1], ["kinds[1]", "kinds[2]"])],
)
def test_enums_are_known_and_specified(values: list[int], wrong: list[str]) -> None:
    assert wrong_in(lambda fields: fields.enums("kinds", values, [0, 1, 2])) == wrong


# ── Text and maps ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", ["", "a" * 1_024, "ü" * 512, "tab\tand\nnewline", "😀", "\x80"])
def test_texts_are_accepted(value: str) -> None:
    assert fine(lambda fields: fields.text("reason", value))


@pytest.mark.parametrize("value", ["a" * 1_025, "ü" * 513, "a\0b", "\x1f", "\r", "\x7f"])
def test_long_texts_and_control_characters_are_refused(value: str) -> None:
    assert wrong_in(lambda fields: fields.text("reason", value)) == ["reason"]


def test_labels_are_accepted_up_to_their_number_and_sizes() -> None:
    labels = {f"{number:02}" + "k" * 62: "v" * 256 for number in range(32)}
    fields = Fields()
    assert fields.labels("labels", labels) == labels
    assert not fields.violations


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        ({str(number): "" for number in range(33)}, ["labels"]),
        ({"": "v"}, ["labels"]),
        ({"k" * 65: ""}, [f"labels['{'k' * 64}']"]),
        ({"k": "v" * 257}, ["labels['k']"]),
        ({"k": "\0", "\1": "v"}, ["labels['k']", "labels['\\x01']"]),
    ],
)
def test_bad_labels_are_named(labels: dict[str, str], wrong: list[str]) -> None:
    assert wrong_in(lambda fields: fields.labels("labels", labels)) == wrong


def test_metrics_are_accepted_up_to_their_number_and_values() -> None:
    metrics = {f"m{number}": MAX_AMOUNT for number in range(31)} | {"zero": 0}
    fields = Fields()
    assert fields.metrics("metrics", metrics) == metrics
    assert not fields.violations


@pytest.mark.parametrize(
    ("metrics", "wrong"),
    [
        ({f"m{number}": 1 for number in range(33)}, ["metrics"]),
        ({"Tokens": 1}, ["metrics['Tokens']"]),
        ({"tokens": -1}, ["metrics['tokens']"]),
        ({"tokens": MAX_AMOUNT + 1}, ["metrics['tokens']"]),
        ({"": -1}, ["metrics['']"] * 2),
    ],
)
def test_bad_metrics_are_named(metrics: dict[str, int], wrong: list[str]) -> None:
    assert wrong_in(lambda fields: fields.metrics("metrics", metrics)) == wrong


# ── Times ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seconds", "nanos", "micros"),
    [
        (0, 0, 0),
        (1, 999, 1_000_000),
        (1, 1_000, 1_000_001),
        (-1, 999_999_999, -1),
        (-62_135_596_800, 0, -62_135_596_800_000_000),
        (253_402_300_799, 999_999_999, 253_402_300_799_999_999),
    ],
)
def test_a_time_is_cut_to_microseconds(seconds: int, nanos: int, micros: int) -> None:
    fields = Fields()
    assert fields.time("time", Timestamp(seconds=seconds, nanos=nanos)) == micros
    assert not fields.violations


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(-62_135_596_801, 0), (253_402_300_800, 0), (0, -1), (0, 1_000_000_000), (2**63 - 1, 0), (-(2**63), 0)],
)
def test_what_is_no_time_is_refused(seconds: int, nanos: int) -> None:
    time = Timestamp(seconds=seconds, nanos=nanos)
    assert wrong_in(lambda fields: fields.time("time", time)) == ["time"]


@pytest.mark.parametrize(
    ("seconds", "nanos", "micros"), [(0, 0, 0), (0, 999, 0), (1, 500_000_000, 1_500_000), (60, 0, 60_000_000)]
)
def test_a_duration_is_cut_to_microseconds(seconds: int, nanos: int, micros: int) -> None:
    fields = Fields()
    assert fields.duration("ttl", Duration(seconds=seconds, nanos=nanos), 60) == micros
    assert not fields.violations


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(-1, 0), (0, -1), (0, 1_000_000_000), (60, 1_000), (61, 0), (2**63 - 1, 999_999_999), (-1, -1)],
)
def test_what_is_no_duration_is_refused(seconds: int, nanos: int) -> None:
    value = Duration(seconds=seconds, nanos=nanos)
    assert wrong_in(lambda fields: fields.duration("ttl", value, 60)) == ["ttl"]


# ── Usage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("message", "usage"),
    [
        (pb.Usage(), Usage()),
        (pb.Usage(outcome=pb.Usage.OUTCOME_SUCCEEDED), Usage()),
        (pb.Usage(outcome=pb.Usage.OUTCOME_FAILED), Usage(failed=True)),
        (pb.Usage(response_time=Duration()), Usage(response_time=0)),
        (pb.Usage(response_time=Duration(seconds=YEAR)), Usage(response_time=YEAR * 10**6)),
        (pb.Usage(occur_time=Timestamp()), Usage(occur_time=0)),
        (pb.Usage(metadata=Struct()), Usage(metadata={})),
    ],
)
def test_absent_parts_of_a_usage_are_told_apart_from_zero(message: pb.Usage, usage: Usage) -> None:
    fields = Fields()
    assert fields.usage(message) == usage
    assert not fields.violations


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (pb.Usage(service="s" * 129), "usage.service"),
        (pb.Usage(metrics={"T": 1}), "usage.metrics['T']"),
        (pb.Usage(response_time=Duration(seconds=YEAR + 1)), "usage.response_time"),
        (pb.Usage(response_time=Duration(seconds=-1)), "usage.response_time"),
        (pb.Usage(outcome=3), "usage.outcome"),  # type: ignore[arg-type]
        (pb.Usage(occur_time=Timestamp(seconds=2**62)), "usage.occur_time"),
    ],
)
def test_bad_parts_of_a_usage_are_named(message: pb.Usage, wrong: str) -> None:
    assert wrong_in(lambda fields: fields.usage(message)) == [wrong]


def metadata_of(struct: Struct) -> tuple[dict[str, Any] | None, list[tuple[str, str]]]:
    fields = Fields()
    usage = fields.usage(pb.Usage(metadata=struct))
    return usage.metadata, fields.violations


def test_metadata_is_json() -> None:
    told: dict[str, Any] = {"a": None, "b": True, "c": 1.5, "d": "ü", "e": [1.0, [], {}], "f": {"g": {}}}
    assert metadata_of(ParseDict(told, Struct())) == (told, [])


def test_a_value_without_a_kind_is_null() -> None:
    values = ListValue(values=[Value()])
    assert metadata_of(Struct(fields={"a": Value(), "b": Value(list_value=values)})) == (
        {"a": None, "b": [None]},
        [],
    )


def nested(depth: int, in_list: bool) -> Struct:
    value = Value(number_value=1)
    for _ in range(depth - 1):
        value = (
            Value(list_value=ListValue(values=[value]))
            if in_list
            else Value(struct_value=Struct(fields={"a": value}))
        )
    return Struct(fields={"a": value})


@pytest.mark.parametrize("in_list", [False, True])
def test_metadata_nests_only_so_deep(in_list: bool) -> None:
    assert metadata_of(nested(15, in_list))[1] == []
    assert metadata_of(nested(17, in_list))[1] == [("usage.metadata", "must be nested at most 16 deep")]
    assert metadata_of(nested(30, in_list))[1] == [("usage.metadata", "must be nested at most 16 deep")]


def test_metadata_is_bounded_as_json() -> None:
    overhead = len('{"a":""}')
    assert metadata_of(ParseDict({"a": "x" * (4_096 - overhead)}, Struct()))[1] == []
    assert metadata_of(ParseDict({"a": "ü" * ((4_096 - overhead) // 2)}, Struct()))[1] == []
    for text in ("x" * (4_097 - overhead), "ü" * ((4_098 - overhead) // 2), "\\" * 2_045):
        assert metadata_of(ParseDict({"a": text}, Struct()))[1] == [
            ("usage.metadata", "must be at most 4096 bytes as JSON")
        ]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_metadata_has_finite_numbers_only(number: float) -> None:
    struct = Struct(fields={"a": Value(list_value=ListValue(values=[Value(number_value=number)]))})
    assert metadata_of(struct)[1] == [("usage.metadata", "must have finite numbers only")]


@pytest.mark.parametrize("told", [{"a\0": 1}, {"a": "\0"}, {"a": {"b\0": 1}}, {"a": ["\0"]}])
def test_metadata_has_no_nul(told: dict[str, Any]) -> None:
    assert metadata_of(ParseDict(told, Struct()))[1] == [("usage.metadata", "must not contain NUL")]


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_usage_that_parses_is_read_or_refused(data: bytes) -> None:
    message = pb.Usage()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return
    Fields().usage(message)
