"""What a block of reserved work sends, by the script of a server: at its end, after errors, and when nobody answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from creditledger import (
    CommitReservationResponse,
    CreditLedgerClient,
    CreditLedgerError,
    GetReservationResponse,
    InsufficientCredits,
    ReleaseReservationResponse,
    ReservationBlock,
    ReservationCommitted,
    ReservationExpired,
    ReservationReleased,
    Usage,
)
from creditledger.v1.credit_ledger_pb2 import CommitReservationRequest
from reservation_blocks import Blocks
from reservation_script import (
    NO_RETRIES,
    NOW,
    TIMEOUT,
    State,
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


# --- Success


def test_what_was_reserved_is_committed_when_the_work_is_done(server: FakeServer, blocks: Blocks) -> None:
    response = CommitReservationResponse(cost=2, released=3, late=True)
    response.entry.revision = 9
    response.balance.available = 95
    server.answer("CommitReservation", response)
    block = blocks.run(nothing, quantity=2)
    (request,) = server.requests["CommitReservation"]
    assert request == CommitReservationRequest(
        request_id=request.request_id, account_id="user-1", reservation_id="r7", quantity=2
    )
    assert block.response == response
    assert (block.cost, block.late, block.entry.revision, block.balance.available) == (2, True, 9, 95)
    assert sent(server) == ["Reserve", "CommitReservation"]


def test_the_block_tells_what_was_reserved(server: FakeServer, blocks: Blocks) -> None:
    answer = reserved()
    answer.balance.reserved = 2
    answer.limits.add(operation="video_processing", used=1)
    server.answer("Reserve", answer)
    told: list[Any] = []
    blocks.run(lambda block: told.extend([block.reservation, block.balance, list(block.limits)]))
    assert told == [answer.reservation, answer.balance, list(answer.limits)]


def test_every_keyword_is_in_the_request(server: FakeServer, blocks: Blocks) -> None:
    blocks.run(
        nothing,
        quantity=2,
        metrics={"tokens": 9},
        account_level="pro",
        ttl=timedelta(minutes=5),
        request_id="job-7",
    )
    (request,) = server.requests["Reserve"]
    assert (request.request_id, request.account_id, request.operation) == (
        "job-7", "user-1", "video_processing",
    )  # fmt: skip
    assert (request.quantity, dict(request.metrics), request.account_level) == (2, {"tokens": 9}, "pro")
    assert request.ttl.seconds == 300


def test_what_the_work_tells_is_committed(server: FakeServer, blocks: Blocks) -> None:
    def work(block: Any) -> None:
        block.quantity = 3
        block.usage(
            service="openai",
            metrics={"tokens": 1834},
            response_time=timedelta(seconds=2.5),
            outcome=Usage.OUTCOME_SUCCEEDED,
            occur_time=NOW,
            metadata={"voice": "Ada", "takes": [1, 2]},
        )

    blocks.run(work, quantity=5)
    (request,) = server.requests["CommitReservation"]
    usage = Usage(service="openai", metrics={"tokens": 1834}, outcome=Usage.OUTCOME_SUCCEEDED)
    usage.response_time.FromTimedelta(timedelta(seconds=2.5))
    usage.occur_time.FromDatetime(NOW)
    usage.metadata.update({"voice": "Ada", "takes": [1, 2]})
    assert request.quantity == 3
    assert request.usage == usage


def test_usage_told_later_replaces_what_it_names_and_keeps_the_rest(
    server: FakeServer, blocks: Blocks
) -> None:
    def work(block: Any) -> None:
        block.usage(
            service="openai", response_time=timedelta(seconds=2.5), metrics={"tokens": 5, "images": 1}
        )
        block.usage(response_time=timedelta(seconds=3), metrics={"tokens": 9})

    blocks.run(work)
    (request,) = server.requests["CommitReservation"]
    usage = Usage(service="openai", metrics={"tokens": 9})
    usage.response_time.FromTimedelta(timedelta(seconds=3))
    assert request.usage == usage


def test_metrics_that_are_not_told_are_those_reserved_with(server: FakeServer, blocks: Blocks) -> None:
    blocks.run(lambda block: block.usage(service="openai"), metrics={"tokens": 9})
    (request,) = server.requests["CommitReservation"]
    assert request.usage == Usage(service="openai", metrics={"tokens": 9})


def test_a_reservation_or_limit_that_is_refused_is_raised_before_the_work(
    server: FakeServer, blocks: Blocks
) -> None:
    server.answer("Reserve", server.error(Code.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS"))
    worked: list[Any] = []
    with pytest.raises(InsufficientCredits):
        blocks.run(worked.append)
    assert not worked
    assert sent(server) == ["Reserve"]


# --- Errors of the work


def test_the_error_of_the_work_releases_and_goes_on(server: FakeServer, blocks: Blocks) -> None:
    with pytest.raises(KeyError, match="voice") as caught:
        blocks.run(fail)
    (request,) = server.requests["ReleaseReservation"]
    assert (request.account_id, request.reservation_id, request.reason) == ("user-1", "r7", "KeyError")
    assert not hasattr(caught.value, "__notes__")
    assert sent(server) == ["Reserve", "ReleaseReservation"]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_program_releases_too(server: FakeServer, ending: type[BaseException]) -> None:
    with (
        CreditLedgerClient(server.target) as client,
        pytest.raises(ending),
        client.reserve("user-1", "video_processing"),
    ):
        raise ending
    assert sent(server) == ["Reserve", "ReleaseReservation"]


def test_a_generator_that_is_not_read_to_its_end_releases(server: FakeServer) -> None:
    def words(client: CreditLedgerClient) -> Iterator[str]:
        with client.reserve("user-1", "video_processing"):
            yield "all"
            yield "about"

    with CreditLedgerClient(server.target) as client:
        stream = words(client)
        assert next(stream) == "all"
        stream.close()  # type: ignore[attr-defined]
    assert sent(server) == ["Reserve", "ReleaseReservation"]


def test_a_release_that_fails_does_not_hide_the_error_of_the_work(server: FakeServer, blocks: Blocks) -> None:
    server.always("ReleaseReservation", server.error(Code.INTERNAL, "INTERNAL"))
    with pytest.raises(KeyError, match="voice") as caught:
        blocks.run(fail)
    (note,) = caught.value.__notes__
    assert (
        "r7 of user-1 was not released (INTERNAL: for a developer); it ends at 2026-11-23T00:10:00Z" in note
    )


@pytest.mark.parametrize("reason", ["RESERVATION_EXPIRED", "RESERVATION_RELEASED"])
def test_nothing_is_noted_where_nothing_was_left_to_release(
    server: FakeServer, blocks: Blocks, reason: str
) -> None:
    server.always("ReleaseReservation", server.error(Code.FAILED_PRECONDITION, reason))
    with pytest.raises(KeyError, match="voice") as caught:
        blocks.run(fail)
    assert not hasattr(caught.value, "__notes__")


# --- Commits without an answer


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code.UNAVAILABLE, "STORAGE_UNAVAILABLE"),
        (Code.UNAVAILABLE, ""),
        (Code.CANCELLED, ""),
        (Code.DEADLINE_EXCEEDED, "DEADLINE_PASSED"),
        (Code.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED"),
        (Code.ABORTED, "CONTENTION"),
    ],
)
def test_a_commit_without_an_answer_is_sent_again_as_it_is(
    server: FakeServer, blocks: Blocks, code: Code, reason: str
) -> None:
    server.answer("CommitReservation", *[server.error(code, reason)] * 3)
    block = blocks.run(lambda block: block.usage(service="openai"), options=NO_RETRIES)
    first, *others = server.requests["CommitReservation"]
    assert others == [first] * 3
    assert block.cost == 2
    assert not server.requests["ReleaseReservation"]


def test_a_commit_that_is_never_answered_is_not_released(server: FakeServer, blocks: Blocks) -> None:
    server.always("CommitReservation", server.error(Code.UNAVAILABLE))
    with pytest.raises(CreditLedgerError) as caught:
        blocks.run(nothing, options=NO_RETRIES, commit_timeout=0.4)
    ids = {request.request_id for request in server.requests["CommitReservation"]}
    assert caught.value.outcome_unknown
    assert {caught.value.request_id} == ids
    assert len(server.requests["CommitReservation"]) > 1
    assert "r7 of user-1 was not released" in caught.value.__notes__[0]
    assert not server.requests["ReleaseReservation"]

    server.always("CommitReservation", CommitReservationResponse(cost=2, replayed=True))
    assert blocks.call("commit").replayed
    assert {request.request_id for request in server.requests["CommitReservation"]} == ids
    assert blocks.last.cost == 2


def test_each_attempt_at_a_commit_has_the_timeout_of_a_call_within_that_of_the_commit(
    server: FakeServer, blocks: Blocks
) -> None:
    remaining: list[float] = []

    def answer(request: Message, context: grpc.ServicerContext) -> Message:
        remaining.append(context.time_remaining())
        return CommitReservationResponse()

    server.always("CommitReservation", answer)
    for timeout, commit_timeout in [(4.0, 60.0), (60.0, 4.0)]:
        blocks.run(nothing, timeout=timeout, commit_timeout=commit_timeout)
    assert remaining == pytest.approx([4.0, 4.0], abs=0.9)


def test_work_that_fails_after_a_commit_without_an_answer_is_not_released(
    server: FakeServer, blocks: Blocks
) -> None:
    server.always("CommitReservation", server.error(Code.UNAVAILABLE))
    with pytest.raises(CreditLedgerError) as caught:
        blocks.run(lambda block: block.commit(), options=NO_RETRIES, commit_timeout=0.1)
    assert caught.value.outcome_unknown
    assert len(caught.value.__notes__) == 1
    assert not server.requests["ReleaseReservation"]
    with pytest.raises(RuntimeError, match="outcome is unknown"):
        blocks.call("release")


def test_a_refused_commit_leaves_the_reservation_as_it_is(server: FakeServer, blocks: Blocks) -> None:
    server.answer("CommitReservation", server.error(Code.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS"))
    with pytest.raises(InsufficientCredits):
        blocks.run(nothing, quantity=5)
    assert sent(server) == ["Reserve", "CommitReservation"]

    blocks.last.quantity = 1
    assert blocks.call("commit").cost == 2
    first, second = server.requests["CommitReservation"]
    assert (first.quantity, second.quantity) == (5, 1)
    assert first.request_id != second.request_id


def test_a_late_commit_that_is_not_covered_is_raised(server: FakeServer, blocks: Blocks) -> None:
    server.answer(
        "CommitReservation",
        server.error(Code.UNAVAILABLE),
        server.error(Code.FAILED_PRECONDITION, "RESERVATION_EXPIRED"),
    )
    with pytest.raises(ReservationExpired):
        blocks.run(nothing, options=NO_RETRIES)
    assert not server.requests["ReleaseReservation"]


# --- By hand


def test_a_block_that_was_committed_by_hand_does_nothing_more(server: FakeServer, blocks: Blocks) -> None:
    block = blocks.run(lambda block: block.commit())
    assert block.cost == 2
    assert sent(server) == ["Reserve", "CommitReservation"]


def test_a_block_that_was_released_by_hand_does_nothing_more(server: FakeServer, blocks: Blocks) -> None:
    answer = ReleaseReservationResponse()
    answer.balance.available = 100
    server.answer("ReleaseReservation", answer)
    block = blocks.run(lambda block: block.release(reason="not wanted"))
    assert server.requests["ReleaseReservation"][0].reason == "not wanted"
    assert sent(server) == ["Reserve", "ReleaseReservation"]
    assert block.balance.available == 100
    with pytest.raises(RuntimeError, match="nothing has been committed"):
        _ = block.response


@pytest.mark.parametrize("method", ["commit", "release"])
@pytest.mark.parametrize("ended", ["commit", "release"])
def test_a_block_ends_once(server: FakeServer, blocks: Blocks, ended: str, method: str) -> None:
    blocks.run(lambda block: getattr(block, ended)())
    with pytest.raises(RuntimeError, match=f"was {'committed' if ended == 'commit' else 'released'} before"):
        blocks.call(method)


def test_nothing_is_sent_before_the_block_begins(server: FakeServer) -> None:
    with CreditLedgerClient(server.target) as client:
        block = client.reserve("user-1", "video_processing")
        for attribute in ("reservation", "balance", "limits"):
            with pytest.raises(RuntimeError, match="nothing is reserved before"):
                getattr(block, attribute)
        with pytest.raises(RuntimeError, match="nothing is reserved before"):
            block.commit()
    assert not sent(server)


def test_a_block_is_used_once(server: FakeServer, blocks: Blocks) -> None:
    blocks.run(nothing)
    enter = "__enter__" if isinstance(blocks.last, ReservationBlock) else "__aenter__"
    with pytest.raises(RuntimeError, match="made once"):
        blocks.call(enter)
    assert sent(server) == ["Reserve", "CommitReservation"]


# --- The same request id again


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (State.RESERVATION_STATE_COMMITTED, ReservationCommitted),
        (State.RESERVATION_STATE_RELEASED, ReservationReleased),
        (State.RESERVATION_STATE_EXPIRED, ReservationExpired),
    ],
)
def test_a_block_that_has_ended_raises_how_before_the_work(
    server: FakeServer, blocks: Blocks, state: State.ValueType, error: type[CreditLedgerError]
) -> None:
    server.answer("Reserve", reserved(replayed=True))
    server.answer("GetReservation", GetReservationResponse(reservation=reservation(state=state)))
    worked: list[Any] = []
    with pytest.raises(error) as caught:
        blocks.run(worked.append, request_id="job-7")
    assert not worked
    assert caught.value.reason == State.Name(state).replace("_STATE", "")
    assert caught.value.metadata == {"accountId": "user-1", "reservationId": "r7"}
    assert not caught.value.outcome_unknown
    assert sent(server) == ["Reserve"]


def test_a_block_that_has_not_ended_goes_on_and_is_extended_at_once(
    server: FakeServer, blocks: Blocks
) -> None:
    server.answer("Reserve", reserved(replayed=True))
    server.answer("GetReservation", GetReservationResponse(reservation=reservation()))
    blocks.run(lambda block: wait_for(lambda: server.requests["ExtendReservation"]), request_id="job-7")
    assert sent(server) == ["Reserve", "ExtendReservation", "CommitReservation"]


# --- A closed client


def test_a_client_closed_within_the_block_cannot_commit_and_says_so(server: FakeServer) -> None:
    with (
        CreditLedgerClient(server.target) as client,
        pytest.raises(ValueError, match="closed"),
        client.reserve("user-1", "video_processing"),
    ):
        client.close()
    assert sent(server) == ["Reserve"]


def test_a_client_closed_within_the_block_does_not_hide_the_error_of_the_work(server: FakeServer) -> None:
    with (
        CreditLedgerClient(server.target) as client,
        pytest.raises(KeyError) as caught,
        client.reserve("user-1", "video_processing"),
    ):
        client.close()
        raise KeyError("voice")
    assert "was not released" in caught.value.__notes__[0]


def test_a_client_closed_under_a_commit_leaves_its_outcome_unknown(server: FakeServer) -> None:
    client = CreditLedgerClient(server.target, timeout=TIMEOUT)

    def close(request: Message, context: grpc.ServicerContext) -> Message:
        client.close()
        return CommitReservationResponse()

    server.always("CommitReservation", close)
    with pytest.raises(CreditLedgerError) as caught, client.reserve("user-1", "video_processing"):
        pass
    assert caught.value.outcome_unknown
    assert caught.value.request_id == server.requests["CommitReservation"][0].request_id
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert "was not released" in caught.value.__notes__[0]
