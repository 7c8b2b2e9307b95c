"""The hash chain through the entries: what it is computed from never changes, and no two entries share it."""

from __future__ import annotations

import json
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from creditledger_server.domain.entry import (
    GENESIS,
    Draw,
    Entry,
    EntryKind,
    LimitState,
    chain_hash,
    draws_text,
    limits_text,
    parse_draws,
    parse_limits,
)
from creditledger_server.domain.periods import Period
from hypothesis import assume, given, settings
from hypothesis import strategies as st

OPENED = Entry(
    "user-1", 1, EntryKind.OPENED, 1_795_305_600_000_000, 0, 0, 0, 0, 0, 0, 0, 1, None, "open-1",
    bytes(range(32)), (), (), None, '{"labels":{},"level":"free"}', b"",
)  # fmt: skip
DEDUCTED = Entry(
    "user-1", 2, EntryKind.DEDUCTED, 1_795_305_600_000_001, -7, 7, 3, 1, 9, 2, 4, 12, "script_generation",
    'say "ü"\\\n\x1f\u2028😀', bytes(32), (Draw(1, 5), Draw(3, 2)),
    (
        LimitState("script_generation", Period.DAY, 10, 4, 1_795_392_000_000_000),
        LimitState("script_generation", Period.LIFETIME, -1, 4, None),
    ),
    '{"metadata":{"ключ":[1.5,null]},"service":"a"}', None, b"",
)  # fmt: skip

lines = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
numbers = st.integers(-(2**63), 2**63 - 1)
draws = st.lists(st.builds(Draw, st.integers(1, 2**63 - 1), st.integers(1, 10**15)), max_size=3).map(tuple)
LimitTerms = tuple[Period, int, int, int | None]
limit_terms = st.tuples(
    st.sampled_from(Period),
    st.integers(-1, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.none() | st.integers(1, 2**63 - 1),
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Any entry that could be stored. Its limits are those of its operation."""
    operation = draw(st.none() | lines)
    terms: list[LimitTerms] = draw(st.lists(limit_terms, max_size=3)) if operation is not None else []
    counts: list[int] = draw(st.lists(numbers, min_size=9, max_size=9))
    fields: list[Any] = [
        draw(lines), draw(numbers), draw(st.sampled_from(EntryKind)), *counts, operation, draw(st.none() | lines),
        draw(st.none() | st.binary(min_size=32, max_size=32)), draw(draws),
        tuple(LimitState(str(operation), *each) for each in terms),
        draw(st.none() | lines), draw(st.none() | lines), b"",
    ]  # fmt: skip
    return Entry(*fields)


def hash_of(entry: Entry, **changed: Any) -> bytes:
    """The hash of the entry with these fields changed, as the first of its account."""
    return chain_hash(GENESIS, entry._replace(**changed))


# ── Pinned: these hashes are in databases ─────────────────────────────────────────────────────────────────────────


def test_the_hash_of_an_opened_entry_is_pinned() -> None:
    assert (
        chain_hash(GENESIS, OPENED).hex()
        == "980ca6de2115937b6e4aa2af640cfe95ee5dd5bfda40f2a4eee7b170ca255c91"
    )


def test_the_hash_of_a_deducted_entry_is_pinned() -> None:
    assert (
        chain_hash(chain_hash(GENESIS, OPENED), DEDUCTED).hex()
        == "15d2c23208bccdc29dd323d3683288b061f32c7437b9b5d651bdb477e1872a55"
    )


def test_the_first_entry_is_chained_to_32_zero_bytes() -> None:
    assert bytes(32) == GENESIS


def test_the_numbers_of_kinds_are_pinned() -> None:
    assert {kind.name: int(kind) for kind in EntryKind} == {
        "OPENED": 1,
        "LEVEL_CHANGED": 2,
        "GRANTED": 3,
        "DEDUCTED": 4,
        "RESERVED": 5,
        "COMMITTED": 6,
        "RELEASED": 7,
        "RESERVATION_EXPIRED": 8,
        "EXTENDED": 9,
        "REFUNDED": 10,
        "GRANT_EXPIRED": 11,
        "GRANT_VOIDED": 12,
        "ADJUSTED": 13,
        "STATE_CHANGED": 14,
        "GRANT_STARTED": 15,
    }


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), entries())
def test_the_hash_is_that_of_a_json_array_which_anybody_can_write(previous: bytes, entry: Entry) -> None:
    draws = ",".join(f"{revision}:{amount}" for revision, amount in entry.draws) or None
    limits = ",".join(
        f"{int(period)}:{limit}:{used}:{'' if reset is None else reset}"
        for _, period, limit, used, reset in entry.limits
    )
    fields = [
        1, entry.account_id, entry.revision, int(entry.kind), entry.create_time, entry.amount, entry.cost,
        entry.available, entry.reserved, entry.spent, entry.forfeited, entry.quantity, entry.catalog_version,
        entry.operation, entry.request_id, entry.fingerprint.hex() if entry.fingerprint else None, draws,
        limits or None, entry.usage, entry.details,
    ]  # fmt: skip
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    assert chain_hash(previous, entry) == sha256(previous + text.encode()).digest()


# ── Injective: a change anywhere changes the hash ─────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(entries(), entries())
def test_different_entries_have_different_hashes(one: Entry, other: Entry) -> None:
    assert (hash_of(one) == hash_of(other)) == (one == other)


@settings(deadline=None)
@given(entries(), entries(), st.sampled_from([name for name in Entry._fields if name != "hash"]))
def test_entries_that_differ_in_one_field_have_different_hashes(one: Entry, other: Entry, name: str) -> None:
    changed = one._replace(**{name: getattr(other, name)})
    if changed.limits and name in ("operation", "limits"):  # limits are stored without their operation
        assume(changed.operation is not None)
        changed = changed._replace(
            limits=tuple(state._replace(operation=str(changed.operation)) for state in changed.limits)
        )
    assert (hash_of(one) == hash_of(changed)) == (one == changed)


BORDERS = [
    ("account_id", "operation"),
    ("operation", "request_id"),
    ("request_id", "usage"),
    ("usage", "details"),
    ("request_id", "details"),
]


@pytest.mark.parametrize(("left", "right"), BORDERS)
@settings(deadline=None, max_examples=50)
@given(lines | st.text('",\\[]nul', max_size=8))
def test_characters_moved_over_the_border_of_two_texts_change_the_hash(
    left: str, right: str, text: str
) -> None:
    plain = DEDUCTED._replace(limits=())
    hashes = {hash_of(plain, **{left: text[:place], right: text[place:]}) for place in range(len(text) + 1)}
    assert len(hashes) == len(text) + 1


@pytest.mark.parametrize("name", ["operation", "request_id", "usage", "details"])
def test_none_the_empty_text_and_null_are_three_things(name: str) -> None:
    plain = DEDUCTED._replace(limits=())
    assert len({hash_of(plain, **{name: value}) for value in (None, "", "null")}) == 3


def test_digits_moved_between_two_numbers_change_the_hash() -> None:
    names = ["revision", "create_time", "amount", "cost", "available", "reserved", "spent", "forfeited"]
    for left, right in pairwise(names):
        assert hash_of(DEDUCTED, **{left: 12, right: 3}) != hash_of(DEDUCTED, **{left: 1, right: 23})


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_the_predecessor_is_hashed_too(one: bytes, other: bytes) -> None:
    assert (chain_hash(one, DEDUCTED) == chain_hash(other, DEDUCTED)) == (one == other)


def test_the_hash_of_the_entry_itself_is_left_out() -> None:
    assert hash_of(DEDUCTED, hash=bytes(32)) == hash_of(DEDUCTED)


# ── Draws and limits as text ──────────────────────────────────────────────────────────────────────────────────────


def test_draws_and_limits_as_text_are_pinned() -> None:
    assert draws_text(DEDUCTED.draws) == "1:5,3:2"
    assert limits_text(DEDUCTED.limits) == "1:10:4:1795392000000000,4:-1:4:"
    assert (draws_text(()), limits_text(())) == (None, None)


@settings(deadline=None)
@given(draws)
def test_draws_survive_their_text(them: tuple[Draw, ...]) -> None:
    assert parse_draws(draws_text(them)) == them


@settings(deadline=None)
@given(st.lists(limit_terms, max_size=4))
def test_limits_survive_their_text(terms: list[LimitTerms]) -> None:
    states = tuple(LimitState("voice", *each) for each in terms)
    parsed = parse_limits("voice", limits_text(states))
    assert parsed == states
    assert all(type(state.period) is Period for state in parsed)


@pytest.mark.parametrize("absent", [None, ""])
def test_no_text_is_no_draws_and_no_limits(absent: str | None) -> None:
    assert (parse_draws(absent), parse_limits("voice", absent)) == ((), ())


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("details", "told"),
    [('{"level":"pro"}', {"level": "pro"}), ('{"reason":""}', {"reason": ""}), (None, {})],
)
def test_details_are_told_as_a_dictionary(details: str | None, told: dict[str, str]) -> None:
    assert OPENED._replace(details=details).told() == told


def test_granted_is_the_sum_of_where_it_went() -> None:
    changed: dict[str, Any] = {"available": 1, "reserved": 20, "spent": 300, "forfeited": 4_000}
    assert OPENED._replace(**changed).granted == 4_321
