"""What is sent again, and that it is the same."""

from __future__ import annotations

import json
import threading
import uuid
from typing import TYPE_CHECKING

import grpc
import pytest
from creditledger import CreditLedgerClient, CreditLedgerError, DeductRequest, Unavailable, Usage
from creditledger._channel import channel_options

if TYPE_CHECKING:
    from tests.client.conftest import Call, FakeServer, StartServer


def fail(server: FakeServer, method: str, code: grpc.StatusCode, times: int) -> None:
    server.answer(method, *[server.error(code) for _ in range(times)])


def test_one_request_id_is_drawn_for_all_attempts(server: FakeServer, call: Call) -> None:
    fail(server, "Deduct", grpc.StatusCode.UNAVAILABLE, 2)
    call("deduct", "user-1", "script_generation")
    ids = [request.request_id for request in server.requests["Deduct"]]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert uuid.UUID(ids[0]).version == 4


def test_every_attempt_sends_the_same_message(server: FakeServer, call: Call) -> None:
    fail(server, "GrantCredits", grpc.StatusCode.UNAVAILABLE, 2)
    call("grant_credits", "user-1", 100, reason="welcome", labels={"campaign": "spring"})
    first, *others = server.requests["GrantCredits"]
    assert others == [first, first]


def test_two_calls_draw_two_request_ids(server: FakeServer, call: Call) -> None:
    call("deduct", "user-1", "script_generation")
    call("deduct", "user-1", "script_generation")
    first, second = server.requests["Deduct"]
    assert first.request_id != second.request_id


def test_a_given_request_id_is_sent_as_it_is(server: FakeServer, call: Call) -> None:
    call("deduct", "user-1", "script_generation", request_id="job-7")
    call("deduct", "user-1", "script_generation", request_id="")
    assert [request.request_id for request in server.requests["Deduct"]] == ["job-7", ""]


def test_batch_items_without_a_request_id_get_one_for_all_attempts(server: FakeServer, call: Call) -> None:
    fail(server, "BatchDeduct", grpc.StatusCode.UNAVAILABLE, 1)
    given = DeductRequest(request_id="job-7", account_id="user-1", operation="script_generation")
    bare = DeductRequest(account_id="user-1", operation="script_generation")
    call("batch_deduct", iter([given, bare, bare]))
    first, second = server.requests["BatchDeduct"]
    assert first == second
    ids = [item.request_id for item in first.requests]
    assert ids[0] == "job-7"
    assert len(set(ids)) == 3
    assert not bare.request_id


def test_a_batch_of_megabytes_is_sent_again_too(server: FakeServer, call: Call) -> None:
    fail(server, "BatchDeduct", grpc.StatusCode.UNAVAILABLE, 1)
    usage = Usage()
    usage.metadata["prompt"] = "x" * 3_000
    item = DeductRequest(account_id="user-1", operation="script_generation", usage=usage)
    call("batch_deduct", [item] * 1_000)
    assert [len(request.requests) for request in server.requests["BatchDeduct"]] == [1_000, 1_000]


def test_after_five_attempts_it_gives_up(server: FakeServer, call: Call) -> None:
    fail(server, "Deduct", grpc.StatusCode.UNAVAILABLE, 9)
    with pytest.raises(Unavailable) as caught:
        call("deduct", "user-1", "script_generation")
    assert len(server.requests["Deduct"]) == 5
    assert caught.value.request_id == server.requests["Deduct"][0].request_id
    assert caught.value.outcome_unknown


def test_what_a_server_that_shuts_down_cancels_is_sent_again(server: FakeServer, call: Call) -> None:
    fail(server, "Deduct", grpc.StatusCode.CANCELLED, 2)
    call("deduct", "user-1", "script_generation")
    first, *others = server.requests["Deduct"]
    assert others == [first, first]


@pytest.mark.parametrize(
    "code",
    sorted(
        set(grpc.StatusCode) - {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED},
        key=str,
    ),
)
def test_nothing_else_is_sent_again(server: FakeServer, call: Call, code: grpc.StatusCode) -> None:
    fail(server, "Deduct", code, 1)
    with pytest.raises(CreditLedgerError):
        call("deduct", "user-1", "script_generation")
    assert len(server.requests["Deduct"]) == 1


def test_retries_end_with_the_timeout(server: FakeServer, call: Call) -> None:
    fail(server, "Deduct", grpc.StatusCode.UNAVAILABLE, 9)
    with pytest.raises(CreditLedgerError):
        call("deduct", "user-1", "script_generation", timeout=0.05)
    assert len(server.requests["Deduct"]) < 5


def test_without_a_server_it_is_unavailable(free_port: int) -> None:
    with CreditLedgerClient(f"127.0.0.1:{free_port}") as client:
        with pytest.raises(Unavailable) as read:
            client.get_server_info()
        with pytest.raises(Unavailable) as mutation:
            client.deduct("user-1", "script_generation")
    assert not read.value.reason
    assert not read.value.outcome_unknown
    assert mutation.value.outcome_unknown


def test_a_server_that_comes_back_within_the_retries_is_reached(
    free_port: int, start_server: StartServer
) -> None:
    starting = threading.Timer(0.4, start_server, [free_port])
    with CreditLedgerClient(f"127.0.0.1:{free_port}") as client:
        starting.start()
        client.get_server_info()
    starting.join()


def test_options_replace_the_default_of_the_same_name() -> None:
    defaults = dict(channel_options())
    changed = dict(channel_options([("grpc.keepalive_time_ms", 60_000), ("grpc.enable_http_proxy", 0)]))
    assert changed == {**defaults, "grpc.keepalive_time_ms": 60_000, "grpc.enable_http_proxy": 0}


def test_the_channel_does_not_retry_a_watch() -> None:
    config = json.loads(dict(channel_options())["grpc.service_config"])
    unary, watch = config["methodConfig"]
    assert unary["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    assert watch == {"name": [{"service": "creditledger.v1.CreditLedger", "method": "WatchUsage"}]}
