"""From the domain to messages: nothing is lost or changed on the way."""

from __future__ import annotations

from typing import Any

import pytest
from creditledger.v1 import resources_pb2 as pb
from creditledger_server.domain.account import Account, AccountState, Grant, GrantSource
from creditledger_server.domain.entry import Draw, Entry, EntryKind, LimitState
from creditledger_server.domain.periods import Period
from creditledger_server.domain.usage import Usage
from creditledger_server.rpc import convert
from creditledger_server.rpc.validate import Fields
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

NOW = 1_795_305_600_000_001
FIRST, LAST = -62_135_596_800, 253_402_300_799

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
names = st.from_regex(r"\A[a-z][a-z0-9_]{0,9}\Z")
values: st.SearchStrategy[Value] = st.recursive(
    st.builds(Value, null_value=st.just(NullValue.NULL_VALUE))
    | st.builds(Value, bool_value=st.booleans())
    | st.builds(Value, number_value=st.floats(allow_nan=False, allow_infinity=False))
    | st.builds(
        Value, number_value=st.sampled_from([5e-324, 1.7976931348623157e308, -0.0, 2.0**53 + 2, 1e22])
    )
    | st.builds(Value, string_value=texts),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda them: Value(list_value=ListValue(values=them)))
        | st.dictionaries(texts, inner, max_size=4).map(lambda them: Value(struct_value=Struct(fields=them)))
    ),
    max_leaves=15,
)
structs = st.dictionaries(texts, values, max_size=4).map(lambda fields: Struct(fields=fields))


@st.composite
def usages(draw: st.DrawFn) -> pb.Usage:
    """Any usage that is valid and as fine as the ledger keeps it."""
    message = pb.Usage(
        service=draw(st.text("abc \tüß😀", max_size=12)),
        metrics=draw(st.dictionaries(names, st.integers(0, 10**15), max_size=4)),
        outcome=draw(st.sampled_from([pb.Usage.OUTCOME_SUCCEEDED, pb.Usage.OUTCOME_FAILED])),
    )
    nanos = st.integers(0, 999_999).map(lambda micros: micros * 1_000)
    if draw(st.booleans()):
        message.response_time.CopyFrom(
            Duration(seconds=draw(st.integers(0, 366 * 86_400 - 1)), nanos=draw(nanos))
        )
    if draw(st.booleans()):
        message.occur_time.CopyFrom(Timestamp(seconds=draw(st.integers(FIRST, LAST)), nanos=draw(nanos)))
    if draw(st.booleans()):
        message.metadata.CopyFrom(draw(structs))
    return message


@settings(deadline=None, max_examples=200)
@given(usages())
def test_a_usage_comes_back_as_it_was_told(message: pb.Usage) -> None:
    fields = Fields()
    usage = fields.usage(message)
    assume(not fields.violations)  # metadata may happen to be too deep or too long
    again = convert.usage(Usage.from_json(usage.to_json()))
    assert again == message
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)
    assert Fields().usage(again).to_json() == usage.to_json()


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"a": {}},
        {"a": []},
        {"a": [[], [[]], {}, [{}]]},
        {"a": None, "b": [None]},
        {"": {"": ""}},
        {"a": [True, 1.0, "1", False, 0.0]},
        {"ключ": "ü😀\u2028\ufeff\x7f\x01"},
    ],
)
def test_metadata_comes_back_as_it_was_told(told: dict[str, Any]) -> None:
    message = pb.Usage(metadata=ParseDict(told, Struct()), outcome=pb.Usage.OUTCOME_SUCCEEDED)
    again = convert.usage(Usage.from_json(Fields().usage(message).to_json()))
    assert again == message
    assert again.HasField("metadata")
    assert MessageToDict(again.metadata) == told


def test_what_was_not_told_stays_absent() -> None:
    message = convert.usage(Usage())
    assert not any(message.HasField(name) for name in ("response_time", "occur_time", "metadata"))
    assert message == pb.Usage(outcome=pb.Usage.OUTCOME_SUCCEEDED)


@settings(deadline=None)
@given(st.integers(FIRST * 10**6, LAST * 10**6 + 999_999))
def test_times_are_exact(micros: int) -> None:
    message = convert.timestamp(micros)
    assert message.seconds * 10**6 + message.nanos // 1_000 == micros
    assert 0 <= message.nanos < 10**9
    assert Fields().time("time", message) == micros


@settings(deadline=None)
@given(st.integers(0, 366 * 86_400 * 10**6))
def test_durations_are_exact(micros: int) -> None:
    message = convert.duration(micros)
    assert message.ToMicroseconds() == micros
    assert Fields().duration("ttl", message, 366 * 86_400) == micros


ENTRY = Entry(
    "ann", 7, EntryKind.DEDUCTED, NOW, -5, 5, 10, 20, 30, 40, 2, 3, "voice", "r-1", bytes(32),
    (Draw(2, 1), Draw(4, 4)), (LimitState("voice", Period.DAY, 9, 2, NOW + 1),), '{"service":"s"}', None,
    b"\1" * 32,
)  # fmt: skip


def test_an_entry_is_told_whole() -> None:
    assert convert.entry(ENTRY) == pb.Entry(
        account_id="ann", revision=7, kind=pb.ENTRY_KIND_DEDUCTED, operation="voice", quantity=2, amount=-5, cost=5,
        balance=pb.Balance(available=10, reserved=20, granted=100, spent=30, forfeited=40),
        draws=[pb.Draw(grant_id="g2", amount=1), pb.Draw(grant_id="g4", amount=4)],
        usage=pb.Usage(service="s", outcome=pb.Usage.OUTCOME_SUCCEEDED), request_id="r-1", catalog_version=3,
        create_time=Timestamp(seconds=1_795_305_600, nanos=1_000), hash=b"\1" * 32,
    )  # fmt: skip


def test_an_entry_without_usage_or_request_says_so() -> None:
    message = convert.entry(ENTRY._replace(usage=None, request_id=None, operation=None, draws=()))
    assert not message.HasField("usage")
    assert (message.request_id, message.operation, list(message.draws)) == ("", "", [])


@pytest.mark.parametrize(
    ("kind", "details", "told"),
    [
        (EntryKind.OPENED, '{"labels":{"a":"b"},"level":"pro"}', ("pro", "", "")),
        (EntryKind.LEVEL_CHANGED, '{"level":"pro"}', ("pro", "", "")),
        (EntryKind.GRANTED, '{"labels":{},"priority":0,"reason":"sorry","source":1}', ("", "sorry", "g7")),
        (EntryKind.DEDUCTED, None, ("", "", "")),
    ],
)
def test_the_details_of_each_kind_are_told(
    kind: EntryKind, details: str | None, told: tuple[str, str, str]
) -> None:
    message = convert.entry(ENTRY._replace(kind=kind, details=details))
    assert (message.level, message.reason, message.grant_id) == told


@pytest.mark.parametrize("kind", EntryKind)
def test_every_kind_is_the_one_of_the_same_name(kind: EntryKind) -> None:
    assert pb.EntryKind.Name(convert.entry(ENTRY._replace(kind=kind)).kind) == f"ENTRY_KIND_{kind.name}"


@pytest.mark.parametrize("period", Period)
def test_every_period_is_the_one_of_the_same_name(period: Period) -> None:
    [message] = convert.limits([LimitState("voice", period, -1, 3, None)])
    assert pb.Period.Name(message.period) == f"PERIOD_{period.name}"
    assert (message.limit, message.used, message.HasField("reset_time")) == (-1, 3, False)


def test_a_limit_tells_its_reset() -> None:
    assert convert.limit(LimitState("voice", Period.DAY, 9, 2, NOW)) == pb.LimitState(
        operation="voice", period=pb.PERIOD_DAY, limit=9, used=2, reset_time=convert.timestamp(NOW)
    )


@pytest.mark.parametrize("state", AccountState)
def test_an_account_is_told_whole(state: AccountState) -> None:
    account = Account("ann", 7, "pro", state, '{"a":"b"}', 1, 2, 3, 4, create_time=NOW, last_time=NOW + 1)
    message = convert.account(account)
    assert pb.AccountState.Name(message.state) == f"ACCOUNT_STATE_{state.name}"
    message.state = pb.ACCOUNT_STATE_UNSPECIFIED
    assert message == pb.Account(
        account_id="ann", level="pro", labels={"a": "b"}, revision=7,
        create_time=convert.timestamp(NOW), update_time=convert.timestamp(NOW + 1),
    )  # fmt: skip
    assert convert.balance(account) == pb.Balance(available=1, reserved=2, spent=3, forfeited=4, granted=10)


def test_the_account_that_an_entry_opened_is_told_as_it_was_then() -> None:
    entry = ENTRY._replace(kind=EntryKind.OPENED, revision=1, details='{"labels":{"a":"b"},"level":"pro"}')
    assert convert.opened_account(entry) == pb.Account(
        account_id="ann", level="pro", state=pb.ACCOUNT_STATE_ACTIVE, labels={"a": "b"}, revision=1,
        create_time=convert.timestamp(NOW), update_time=convert.timestamp(NOW),
    )  # fmt: skip


def test_a_grant_is_told_alike_from_its_entry_and_from_its_terms() -> None:
    details = '{"labels":{"a":"b"},"priority":-3,"reason":"sorry","source":1}'
    entry = ENTRY._replace(kind=EntryKind.GRANTED, amount=9, details=details)
    terms = Grant("ann", 7, 9, -3, GrantSource.ADMIN, NOW, "sorry", '{"a":"b"}')
    assert convert.new_grant(entry) == convert.grant(terms, 9)
    assert convert.grant(terms, 4) == pb.Grant(
        grant_id="g7", account_id="ann", amount=9, remaining=4, priority=-3, source=pb.GRANT_SOURCE_ADMIN,
        create_time=convert.timestamp(NOW), reason="sorry", labels={"a": "b"},
    )  # fmt: skip
