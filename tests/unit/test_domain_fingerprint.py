"""When two requests are the same: pinned, because fingerprints are in databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from creditledger_server.domain.commands import Command, Deduct, GrantCredits, OpenAccount, fingerprint
from creditledger_server.domain.usage import Usage
from hypothesis import assume, given, settings
from hypothesis import strategies as st

USAGE = Usage(
    "openai", {"tokens": 5, "pages": 1}, 1_500, True, 1_795_305_600_000_000, {"b": [1.5, None], "a": "ü"}
)
DEDUCT = Deduct("r", "user-1", "voice", 2, USAGE, "pro")
OPEN = OpenAccount("r", "user-1", "pro", {"b": "2", "a": "ü"})
GRANT = GrantCredits("r", "user-1", 100, -3, 'sorry "you"', {"b": "2", "a": "1"})

PINNED: list[tuple[Command, str]] = [
    (Deduct("r", "user-1", "voice"), "a7c3794a5556acfc108ad992869ac52826aba59ad060f1c1973531fef14abdaf"),
    (DEDUCT, "46db47c2152113794b4f6b22447f481f6c2ce52da4d5929a3fa27471609a49a2"),
    (OpenAccount("r", "user-1"), "365030c2c30c5f8cf0a008ca75cffaeaf7b9c410f7588d368cfb33f6e8371c56"),
    (OPEN, "d55e3ddead65bf6f9faf15df0ba5d29cb5e46275a9cd2b107cd000998f134df5"),
    (GrantCredits("r", "user-1", 100), "df99e7e14d9d81ddab43fd7599d246e07c4d964f9e4a14f21be9f885da03cd72"),
    (GRANT, "31c67cceeb71d5fa44ec9e43757c32363232f98d1aa944a772807f779f0b553b"),
]


def changed(command: Any, **fields: object) -> Any:
    """A copy of a command with other fields: one is a tuple, because so many are made, the others are dataclasses."""
    return (
        type(command)(**{**command._asdict(), **fields})
        if isinstance(command, Deduct)
        else replace(command, **fields)
    )


@pytest.mark.parametrize(("command", "pinned"), PINNED)
def test_fingerprints_are_pinned(command: Command, pinned: str) -> None:
    assert command.fingerprint().hex() == pinned


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        (DEDUCT, "account_id", "user-2"),
        (DEDUCT, "operation", "script"),
        (DEDUCT, "quantity", 3),
        (DEDUCT, "usage", None),
        (DEDUCT, "usage", Usage()),
        (DEDUCT, "account_level", "free"),
        (DEDUCT, "account_level", None),
        (OPEN, "account_id", "user-2"),
        (OPEN, "level", "free"),
        (OPEN, "level", None),
        (OPEN, "labels", {"b": "2"}),
        (OPEN, "labels", {"b": "2", "a": "u"}),
        (OPEN, "labels", {}),
        (GRANT, "account_id", "user-2"),
        (GRANT, "amount", 101),
        (GRANT, "priority", 3),
        (GRANT, "reason", ""),
        (GRANT, "labels", {"b": "1", "a": "2"}),
    ],
)
def test_every_field_that_means_something_changes_the_fingerprint(
    command: Any, name: str, value: object
) -> None:
    assert changed(command, **{name: value}).fingerprint() != command.fingerprint()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("service", "other"),
        ("metrics", {"tokens": 5}),
        ("metrics", {"tokens": 1, "pages": 5}),
        ("response_time", 1_501),
        ("response_time", None),
        ("failed", False),
        ("occur_time", 0),
        ("occur_time", None),
        ("metadata", {"b": [None, 1.5], "a": "ü"}),
        ("metadata", {}),
        ("metadata", None),
    ],
)
def test_every_field_of_the_usage_changes_the_fingerprint(name: str, value: object) -> None:
    other = changed(DEDUCT, usage=replace(USAGE, **{name: value}))  # type: ignore[arg-type]
    assert other.fingerprint() != DEDUCT.fingerprint()


@pytest.mark.parametrize("command", [DEDUCT, OPEN, GRANT])
def test_the_request_id_is_not_part_of_the_fingerprint(command: Any) -> None:
    assert changed(command, request_id="other").fingerprint() == command.fingerprint()


def test_the_order_of_maps_does_not_change_the_fingerprint() -> None:
    usage = replace(USAGE, metrics={"pages": 1, "tokens": 5}, metadata={"a": "ü", "b": [1.5, None]})
    assert changed(DEDUCT, usage=usage).fingerprint() == DEDUCT.fingerprint()
    assert replace(OPEN, labels={"a": "ü", "b": "2"}).fingerprint() == OPEN.fingerprint()
    assert replace(GRANT, labels={"a": "1", "b": "2"}).fingerprint() == GRANT.fingerprint()


@settings(deadline=None)
@given(st.text(), st.text(), st.integers(), st.none() | st.text(), st.none() | st.just(USAGE))
def test_the_fingerprint_of_a_deduction_is_that_of_its_fields(
    account: str, operation: str, quantity: int, level: str | None, usage: Usage | None
) -> None:
    """It is written out for speed."""
    command = Deduct("r", account, operation, quantity, usage, level)
    try:
        expected = fingerprint(
            "Deduct", account, level, operation, quantity, usage.to_json() if usage else None
        )
    except UnicodeEncodeError:
        assume(False)
    assert command.fingerprint() == expected


def test_an_absent_quantity_equals_one() -> None:
    assert Deduct("r", "a", "voice").fingerprint() == Deduct("r", "a", "voice", 1).fingerprint()


def test_the_same_fields_of_another_method_are_another_request() -> None:
    assert fingerprint("Deduct", "a", None) != fingerprint("Reserve", "a", None)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@settings(deadline=None)
@given(*[st.builds(GrantCredits, st.just("r"), texts, st.integers(1, 99), st.integers(-9, 9), texts)] * 2)
def test_different_requests_have_different_fingerprints(one: GrantCredits, other: GrantCredits) -> None:
    assert (one.fingerprint() == other.fingerprint()) == (one == other)


@settings(deadline=None)
@given(texts)
def test_characters_moved_over_the_border_of_two_fields_change_the_fingerprint(text: str) -> None:
    prints = {Deduct("r", text[:place], text[place:]).fingerprint() for place in range(len(text) + 1)}
    assert len(prints) == len(text) + 1
