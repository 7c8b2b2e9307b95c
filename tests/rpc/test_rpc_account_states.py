"""UpdateAccount, and what a frozen or closed account still does."""

from __future__ import annotations

from typing import Any

import pytest
from creditledger.v1 import error_reason_pb2, resources_pb2
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from google.protobuf.field_mask_pb2 import FieldMask
from ledger_calls import Ledger, deduction, kind_name, unique, without_replayed

ACTIVE = resources_pb2.ACCOUNT_STATE_ACTIVE
FROZEN = resources_pb2.ACCOUNT_STATE_FROZEN
CLOSED = resources_pb2.ACCOUNT_STATE_CLOSED


def update(account: str, *paths: str, **fields: Any) -> admin_pb.UpdateAccountRequest:
    fields.setdefault("request_id", unique("update"))
    mask = FieldMask(paths=paths or [name for name in fields if name != "request_id"])
    return admin_pb.UpdateAccountRequest(account_id=account, update_mask=mask, **fields)


def stored(ledger: Ledger, account: str) -> resources_pb2.Account:
    answer: admin_pb.GetAccountResponse = ledger.call(admin_pb.GetAccountRequest(account_id=account))
    return answer.account


def verified(ledger: Ledger, account: str) -> bool:
    answer: admin_pb.VerifyAccountResponse = ledger.call(admin_pb.VerifyAccountRequest(account_id=account))
    return answer.valid


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"level": "free"}, "LEVEL_CHANGED"),
        ({"labels": {"team": "blue"}}, "STATE_CHANGED"),
        ({"labels": {}}, "STATE_CHANGED"),
        ({"state": FROZEN}, "STATE_CHANGED"),
        ({"level": "free", "labels": {"team": "red"}, "state": FROZEN}, "STATE_CHANGED"),
    ],
)
def test_an_update_sets_what_its_mask_names_with_one_entry(
    ledger: Ledger, fields: dict[str, Any], kind: str
) -> None:
    account = ledger.open(credits_=10)
    before = stored(ledger, account)

    answer = ledger.call(update(account, *fields, **fields))

    expected = resources_pb2.Account()
    expected.CopyFrom(before)
    for name, value in fields.items():
        expected.ClearField(name)  # type: ignore[arg-type]
        expected.MergeFrom(resources_pb2.Account(**{name: value}))
    expected.revision = before.revision + 1
    expected.update_time.CopyFrom(answer.entry.create_time)
    assert answer.account == stored(ledger, account) == expected
    assert kind_name(answer.entry) == kind
    assert answer.entry.level == expected.level
    assert ledger.entries(account)[-1] == answer.entry
    assert verified(ledger, account)


def test_fields_that_the_mask_does_not_name_are_left_alone(ledger: Ledger) -> None:
    account = ledger.open()

    answer = ledger.call(update(account, "labels", level="free", state=CLOSED, labels={"a": "b"}))

    assert (answer.account.level, answer.account.state) == ("pro", ACTIVE)
    assert dict(answer.account.labels) == {"a": "b"}


def test_an_update_sent_again_answers_what_it_did(ledger: Ledger) -> None:
    account = ledger.open()
    request = update(account, state=FROZEN, labels={"a": "b"})
    first = ledger.call(request)
    ledger.call(update(account, state=CLOSED))

    again = ledger.call(request)

    assert again.replayed and not first.replayed
    assert without_replayed(again) == without_replayed(first)


def test_an_id_that_was_used_with_another_content_is_refused(ledger: Ledger) -> None:
    account = ledger.open()
    request_id = unique()
    ledger.call(update(account, request_id=request_id, state=FROZEN))

    for other in (
        update(account, request_id=request_id, state=ACTIVE),
        update(account, request_id=request_id, labels={}),
        deduction(account, request_id=request_id),
    ):
        assert ledger.refusal(other).word == "ALREADY_EXISTS / REQUEST_ID_REUSED"


def test_a_frozen_account_refuses_to_spend_and_still_receives_and_tells(ledger: Ledger) -> None:
    account = ledger.open(credits_=10)
    spent = deduction(account)
    first = ledger.call(spent)
    ledger.call(update(account, state=FROZEN))

    assert ledger.refused_deduct(account).word == "FAILED_PRECONDITION / ACCOUNT_FROZEN"
    assert not ledger.can_perform(account).allowed
    assert without_replayed(ledger.call(spent)) == without_replayed(first)
    ledger.grant(account, 5)
    assert ledger.available(account) == 14

    ledger.call(update(account, state=ACTIVE))
    ledger.deduct(account)
    assert verified(ledger, account)


def test_a_frozen_account_does_not_change_its_level_with_a_deduction(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=10)
    ledger.call(update(account, state=FROZEN))

    ledger.refused_deduct(account, account_level="pro")

    assert stored(ledger, account).level == "free"


def test_a_closed_account_refuses_all_mutations_and_still_tells(ledger: Ledger) -> None:
    account = ledger.open(credits_=10)
    spent = deduction(account)
    first = ledger.call(spent)
    ledger.call(update(account, state=CLOSED))
    revision = ledger.revision(account)

    for request in (
        deduction(account),
        admin_pb.GrantCreditsRequest(request_id=unique(), account_id=account, amount=1),
        update(account, state=ACTIVE),
        update(account, labels={}),
    ):
        assert ledger.refusal(request).word == "FAILED_PRECONDITION / ACCOUNT_CLOSED"
    assert without_replayed(ledger.call(spent)) == without_replayed(first)
    assert [denial.reason for denial in ledger.can_perform(account).denials] == [
        error_reason_pb2.ERROR_REASON_ACCOUNT_CLOSED
    ]
    assert ledger.revision(account) == revision


def test_uses_that_were_counted_stay_when_the_level_changes(ledger: Ledger) -> None:
    account = ledger.open(level="free", credits_=100)
    ledger.deduct(account, "script_generation", quantity=3)
    assert ledger.refused_deduct(account, "script_generation").reason == "LIMIT_EXCEEDED"

    ledger.call(update(account, level="pro"))
    [limit] = ledger.deduct(account, "script_generation").limits
    assert (limit.used, limit.limit) == (4, 100)

    ledger.call(update(account, level="free"))
    assert ledger.refused_deduct(account, "script_generation").reason == "LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (update("a", "level"), {"level"}),
        (update("a", "level", level="No"), {"level"}),
        (update("a", "state"), {"state"}),
        (update("a", "state", state=99), {"state"}),
        (update("a", "labels", labels={"": "x"}), {"labels"}),
        (update("a", "balance"), {"update_mask.paths[0]"}),
        (update("a", "level", "*", level="pro"), {"update_mask.paths[1]"}),
        (update("a", *["level"] * 4, level="pro"), {"update_mask"}),
        (admin_pb.UpdateAccountRequest(), {"request_id", "account_id", "update_mask"}),
    ],
)
def test_bad_fields_are_named_all_at_once(
    ledger: Ledger, request_: admin_pb.UpdateAccountRequest, fields: set[str]
) -> None:
    assert set(ledger.refusal(request_).fields) == fields


def test_an_unknown_account_or_level_is_told(ledger: Ledger) -> None:
    assert ledger.refusal(update(unique("nobody"), state=FROZEN)).word == "NOT_FOUND / ACCOUNT_NOT_FOUND"
    refusal = ledger.refusal(update(ledger.open(), level="gold"))
    assert refusal.word == "INVALID_ARGUMENT / LEVEL_UNKNOWN"
    assert set(refusal.fields) == {"level"}
