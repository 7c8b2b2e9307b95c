"""Request ids of reservations, refunds, corrections and purchases, as test_rpc_request_ids.py has the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from ledger_calls import Ledger, unique, without_replayed

Changes = dict[str, Callable[[Any], object]]


def requests_of(account: str) -> dict[str, Any]:
    """A request of every method, on an account as ``prepared`` leaves it: none is in another's way."""
    fields: dict[str, Any] = {"request_id": unique(), "account_id": account}
    return {
        "Reserve": pb.ReserveRequest(
            operation="chat_refinement", quantity=2, metrics={"tokens": 5}, account_level="pro",
            ttl=Duration(seconds=60), **fields,
        ),
        "CommitReservation": pb.CommitReservationRequest(
            reservation_id="r5", quantity=2, usage=resources_pb2.Usage(service="openai"), **fields
        ),
        "ReleaseReservation": pb.ReleaseReservationRequest(reservation_id="r5", reason="why", **fields),
        "ExtendReservation": pb.ExtendReservationRequest(
            reservation_id="r5", ttl=Duration(seconds=60), **fields
        ),
        "Refund": pb.RefundRequest(revision=3, amount=1, reason="why", **fields),
        "VoidGrant": admin_pb.VoidGrantRequest(grant_id="g2", reason="why", **fields),
        "AdjustBalance": admin_pb.AdjustBalanceRequest(amount=2, reason="why", **fields),
        "PurchasePackage": admin_pb.PurchasePackageRequest(
            package_id="starter", payment_reference=unique("payment"), **fields
        ),
        "UpdateAccount": admin_pb.UpdateAccountRequest(
            update_mask=FieldMask(paths=["level", "labels", "state"]), level="pro", labels={"a": "1"},
            state=resources_pb2.ACCOUNT_STATE_ACTIVE, **fields,
        ),
    }  # fmt: skip


def to(**fields: Any) -> Callable[[Any], object]:
    """Sets fields, or clears those that are to be None."""

    def change(request: Any) -> None:
        for name, value in fields.items():
            request.ClearField(name)
            if value is not None:
                request.MergeFrom(type(request)(**{name: value}))

    return change


CHANGES: dict[str, Changes] = {
    "Reserve": {
        "account_level": to(account_level="free"), "account_level absent": to(account_level=None),
        "operation": to(operation="voice_creation"), "quantity": to(quantity=3), "quantity absent": to(quantity=None),
        "metrics": to(metrics={"tokens": 6}), "metrics absent": to(metrics=None),
        "ttl": to(ttl=Duration(seconds=60, nanos=1_000)), "ttl longer": to(ttl=Duration(seconds=61)),
    },
    "CommitReservation": {
        "reservation_id": to(reservation_id="r6"), "quantity": to(quantity=1), "quantity absent": to(quantity=None),
        "usage": to(usage=resources_pb2.Usage(service="other")), "usage absent": to(usage=None),
        "usage failed": to(
            usage=resources_pb2.Usage(service="openai", outcome=resources_pb2.Usage.OUTCOME_FAILED)
        ),
    },
    "ReleaseReservation": {
        "reservation_id": to(reservation_id="r6"), "reason": to(reason="other"), "reason absent": to(reason=None),
    },
    "ExtendReservation": {"reservation_id": to(reservation_id="r6"), "ttl": to(ttl=Duration(seconds=61))},
    "Refund": {
        "revision": to(revision=4), "amount": to(amount=2), "amount absent": to(amount=None), "reason": to(reason=None),
    },
    "VoidGrant": {"grant_id": to(grant_id="g7"), "reason": to(reason=None)},
    "AdjustBalance": {"amount": to(amount=3), "amount down": to(amount=-2), "reason": to(reason="other")},
    "PurchasePackage": {
        "package_id": to(package_id="studio"), "payment_reference": to(payment_reference="another"),
    },
    "UpdateAccount": {
        "update_mask": lambda request: request.update_mask.paths.remove("labels"), "level": to(level="free"),
        "labels": to(labels={"a": "2"}), "labels absent": to(labels=None),
        "state": to(state=resources_pb2.ACCOUNT_STATE_FROZEN),
    },
}  # fmt: skip


@pytest.fixture
def prepared(ledger: Ledger) -> str:
    """A pro account with two grants, two deductions and two reservations."""
    account = ledger.open(credits_=100)
    for _ in range(2):
        ledger.deduct(account, "voice_creation")
    for _ in range(2):
        ledger.call(
            pb.ReserveRequest(
                request_id=unique(), account_id=account, operation="chat_refinement", quantity=2
            )
        )
    ledger.grant(account, 5)
    assert ledger.revision(account) == 7
    return account


@pytest.mark.parametrize("method", CHANGES)
def test_a_request_sent_again_gets_the_first_response_and_any_other_under_its_id_is_refused(
    ledger: Ledger, prepared: str, method: str
) -> None:
    request = requests_of(prepared)[method]
    first = ledger.call(request)
    assert not first.replayed
    history = ledger.entries(prepared)
    balance = ledger.balance(prepared).balance

    for name, change in CHANGES[method].items():
        other = type(request)()
        other.CopyFrom(request)
        change(other)
        assert other != request, name
        failure = ledger.refusal(other)
        assert (failure.word, name) == ("ALREADY_EXISTS / REQUEST_ID_REUSED", name)
        assert failure.metadata["requestId"] == request.request_id
    again = ledger.call(request)

    assert again.replayed
    assert without_replayed(again) == without_replayed(first)
    assert (ledger.entries(prepared), ledger.balance(prepared).balance) == (history, balance)


@pytest.mark.parametrize("method", CHANGES)
def test_every_semantic_field_is_among_the_changes_above(method: str) -> None:
    fields = {field.name for field in requests_of("x")[method].DESCRIPTOR.fields} - {
        "request_id",
        "account_id",
    }

    assert fields == {name.split()[0] for name in CHANGES[method]}


@pytest.mark.parametrize("method", CHANGES)
def test_an_id_of_one_method_is_taken_for_all_methods(ledger: Ledger, prepared: str, method: str) -> None:
    requests = requests_of(prepared)
    ledger.call(requests[method])
    history = ledger.entries(prepared)

    others: list[Message] = [request for name, request in requests.items() if name != method]

    words = {ledger.refusal(other).word for other in others}
    assert words == {"ALREADY_EXISTS / REQUEST_ID_REUSED"}
    assert ledger.entries(prepared) == history
