"""When a block of reserved work is extended, and when not, by the script of a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from creditledger import (
    CommitReservationResponse,
    CreditLedgerClient,
    ExtendReservationResponse,
    GetReservationResponse,
    ReleaseReservationResponse,
    Reservation,
)
from reservation_blocks import Blocks
from reservation_script import (
    NO_RETRIES,
    NOW,
    TIMEOUT,
    fail,
    lenient,
    nothing,
    reservation,
    reserved,
    sent,
    wait_for,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.client.conftest import FakeServer

Code = grpc.StatusCode


@pytest.fixture
def server(server: FakeServer) -> FakeServer:
    """Lets everything be reserved, extended, committed and released."""
    lenient(server)
    return server


def test_it_is_extended_by_its_ttl_while_the_work_lasts(server: FakeServer, blocks: Blocks) -> None:
    later = reservation(expire_time=NOW + timedelta(hours=1))
    server.always("Reserve", reserved(ttl=0.3))
    server.always("ExtendReservation", ExtendReservationResponse(reservation=later))
    told: list[Reservation] = []

    def work(block: Any) -> None:
        wait_for(lambda: len(server.requests["ExtendReservation"]) >= 3)
        told.append(block.reservation)

    blocks.run(work)
    extensions = server.requests["ExtendReservation"]
    assert {request.reservation_id for request in extensions} == {"r7"}
    assert {request.ttl.nanos for request in extensions} == {300_000_000}
    assert len({request.request_id for request in extensions}) == len(extensions)
    assert told == [later]


def test_it_is_not_extended_before_a_third_of_its_ttl(server: FakeServer, blocks: Blocks) -> None:
    begun = time.monotonic()
    first: list[float] = []

    def answer(request: Message, context: grpc.ServicerContext) -> Message:
        first.append(time.monotonic() - begun)
        return ExtendReservationResponse(reservation=reservation())

    server.always("Reserve", reserved(ttl=1.5))
    server.always("ExtendReservation", answer)
    blocks.run(lambda block: wait_for(lambda: first))
    assert first[0] >= 0.5


@pytest.mark.parametrize("work", [nothing, fail], ids=["commit", "release"])
def test_it_is_not_extended_after_its_end(
    server: FakeServer, blocks: Blocks, work: Callable[[Any], None]
) -> None:
    extended_before: list[int] = []

    def answer(request: Message, context: grpc.ServicerContext) -> Message:
        extended_before.append(len(server.requests["ExtendReservation"]))
        time.sleep(0.4)
        extended_before.append(len(server.requests["ExtendReservation"]))
        return CommitReservationResponse() if work is nothing else ReleaseReservationResponse()

    server.always("Reserve", reserved(ttl=0.3))
    server.always("CommitReservation", answer)
    server.always("ReleaseReservation", answer)

    def working(block: Any) -> None:
        wait_for(lambda: server.requests["ExtendReservation"])
        time.sleep(0.01)
        work(block)

    try:
        blocks.run(working)
    except KeyError:
        assert work is fail
    before, after = extended_before
    # One may have been under way.
    assert after <= before + 1


def test_an_extension_without_an_answer_is_tried_again(
    server: FakeServer, blocks: Blocks, caplog: pytest.LogCaptureFixture
) -> None:
    server.always("Reserve", reserved(ttl=0.3))
    server.answer("ExtendReservation", *[server.error(Code.UNAVAILABLE)] * 2)
    blocks.run(
        lambda block: wait_for(lambda: len(server.requests["ExtendReservation"]) >= 3), options=NO_RETRIES
    )
    assert "reservation r7 of user-1 was not extended (UNAVAILABLE: for a developer)" in caplog.text


def test_an_extension_that_is_refused_is_not_tried_again(
    server: FakeServer, blocks: Blocks, caplog: pytest.LogCaptureFixture
) -> None:
    server.always("Reserve", reserved(ttl=0.3))
    server.always("ExtendReservation", server.error(Code.FAILED_PRECONDITION, "RESERVATION_EXPIRED"))

    def work(block: Any) -> None:
        wait_for(lambda: "not extended any more" in caplog.text)
        time.sleep(0.3)

    blocks.run(work)
    assert len(server.requests["ExtendReservation"]) == 1
    assert sent(server)[-1] == "CommitReservation"


def test_a_commit_does_not_wait_for_an_extension_that_hangs(server: FakeServer, blocks: Blocks) -> None:
    released = threading.Event()

    def hang(request: Message, context: grpc.ServicerContext) -> Message:
        released.wait(TIMEOUT)
        return ExtendReservationResponse(reservation=reservation())

    server.always("Reserve", reserved(ttl=60.0, replayed=True))
    server.always("GetReservation", GetReservationResponse(reservation=reservation()))
    server.always("ExtendReservation", hang)
    begun = time.monotonic()
    blocks.run(lambda block: wait_for(lambda: server.requests["ExtendReservation"]), timeout=TIMEOUT)
    taken = time.monotonic() - begun
    released.set()
    assert taken < TIMEOUT / 2


def test_no_thread_outlives_its_block(server: FakeServer) -> None:
    def heartbeats() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "creditledger-heartbeat"]

    with CreditLedgerClient(server.target) as client:
        with client.reserve("user-1", "video_processing"):
            assert len(heartbeats()) == 1
        wait_for(lambda: not heartbeats())


def test_the_heartbeat_of_a_block_that_is_dropped_without_an_end_stops(server: FakeServer) -> None:
    with CreditLedgerClient(server.target) as client:
        block = client.reserve("user-1", "video_processing").__enter__()
        del block
        wait_for(lambda: not any(t.name == "creditledger-heartbeat" for t in threading.enumerate()))
    assert sent(server) == ["Reserve"]
