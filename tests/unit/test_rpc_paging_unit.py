"""Page tokens: they continue the request that they came from and no other."""

from __future__ import annotations

from typing import Any

import pytest
from creditledger.v1 import resources_pb2
from creditledger.v1.credit_ledger_pb2 import ENTRY_ORDER_OLDEST_FIRST, ListEntriesRequest
from creditledger.v1.ledger_admin_pb2 import ListAccountsRequest
from creditledger_server.rpc.paging import Pages
from creditledger_server.rpc.validate import Fields
from google.protobuf.timestamp_pb2 import Timestamp

PAGES = Pages(bytes(range(32)))
REQUEST = ListEntriesRequest(account_id="ann", kinds=[resources_pb2.ENTRY_KIND_DEDUCTED], page_size=5)


def position(request: Any, pages: Pages = PAGES) -> object:
    """Where a request continues; a token that does not belong to it is a violation and continues nowhere."""
    fields = Fields()
    found = pages.position(fields, request)
    assert fields.violations == [] or (
        found is None
        and fields.violations == [("page_token", "must be the next_page_token of the same request")]
    )
    return "refused" if fields.violations else found


def continued(token: str, **changed: object) -> ListEntriesRequest:
    request = ListEntriesRequest()
    request.CopyFrom(REQUEST)
    request.MergeFrom(ListEntriesRequest(page_token=token, **changed))  # type: ignore[arg-type]
    return request


@pytest.mark.parametrize("place", [1, 2**63 - 1, "user@example.com", [1, "a"]])
def test_a_request_continues_where_its_token_says(place: object) -> None:
    assert position(continued(PAGES.token(REQUEST, place))) == place


def test_the_first_page_has_no_position() -> None:
    assert position(REQUEST) is None


def test_the_size_of_a_page_may_change_on_the_way() -> None:
    assert position(continued(PAGES.token(REQUEST, 7), page_size=99)) == 7


def test_the_token_of_a_later_page_continues_the_same_request() -> None:
    second = continued(PAGES.token(REQUEST, 7))
    assert position(continued(PAGES.token(second, 12))) == 12


@pytest.mark.parametrize(
    "changed",
    [
        {"account_id": "bob"},
        {"kinds": [resources_pb2.ENTRY_KIND_GRANTED]},
        {"operation": "voice"},
        {"from_revision": 1},
        {"to_revision": 9},
        {"start_time": Timestamp()},
        {"end_time": Timestamp(seconds=1)},
        {"order": ENTRY_ORDER_OLDEST_FIRST},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_the_token_of_another_request_is_refused(changed: dict[str, object]) -> None:
    assert position(continued(PAGES.token(REQUEST, 7), **changed)) == "refused"


def test_the_token_of_another_method_is_refused() -> None:
    token = PAGES.token(ListEntriesRequest(), 7)
    assert position(ListEntriesRequest(page_token=token)) == 7
    assert position(ListAccountsRequest(page_token=token)) == "refused"


def test_the_token_of_another_ledger_is_refused() -> None:
    assert position(continued(PAGES.token(REQUEST, 7)), Pages(bytes(32))) == "refused"


@pytest.mark.parametrize("token", ["7", "A", "é", "\0", "=", "A" * 10_000])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert position(continued(token)) == "refused"


def test_to_read_a_token_leaves_the_request_as_it_is() -> None:
    request = continued(PAGES.token(REQUEST, 7))
    before = request.SerializeToString(deterministic=True)
    position(request)
    PAGES.token(request, 8)
    assert request.SerializeToString(deterministic=True) == before
