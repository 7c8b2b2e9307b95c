"""Clients of other makers, which know nothing but what reflection tells them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ledger_calls import SERVICES, TIMEOUT, Ledger, failure_of
from ledger_harness import ROOT


def tool(name: str) -> str:
    """Where a program is; the test is skipped without it."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str) -> str:
    """What a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def reflect(ledger: Ledger, **request: Any) -> Any:
    """The answer to one question."""
    stubs: Any = reflection_pb2_grpc
    question = reflection_pb2.ServerReflectionRequest(**request)
    [answer] = stubs.ServerReflectionStub(ledger.channel).ServerReflectionInfo(
        iter([question]), timeout=TIMEOUT
    )
    return answer


def test_reflection_lists_the_services(ledger: Ledger) -> None:
    answer = reflect(ledger, list_services="")

    names = {service.name for service in answer.list_services_response.service}
    assert names == {
        "creditledger.v1.CreditLedger", "creditledger.v1.LedgerAdmin", "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }  # fmt: skip


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_reflection_tells_every_method_of_a_service(ledger: Ledger, service: Any) -> None:
    answer = reflect(ledger, file_containing_symbol=service.full_name)

    files = [
        FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto
    ]
    [found] = [item for file in files for item in file.service if item.name == service.name]
    assert [method.name for method in found.method] == [method.name for method in service.methods]


def test_reflection_of_something_unknown_is_not_found(ledger: Ledger) -> None:
    answer = reflect(ledger, file_containing_symbol="creditledger.v1.Nothing")

    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x1a\x02\xff\xff", b"\x0a\x7f"])
def test_noise_is_a_bad_request(ledger: Ledger, data: bytes) -> None:
    call = ledger.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")

    with pytest.raises(grpc.RpcError) as error:
        list(call(iter([data]), timeout=TIMEOUT))

    assert failure_of(error.value).word == "INVALID_ARGUMENT / FIELD_INVALID"


def test_grpcurl_lists_describes_and_deducts(ledger: Ledger, account: str) -> None:
    grpcurl = tool("grpcurl")
    request = {
        "requestId": "by-grpcurl",
        "accountId": account,
        "operation": "voice_creation",
        "quantity": "2",
    }
    method = "creditledger.v1.CreditLedger/Deduct"

    assert "creditledger.v1.LedgerAdmin" in run(grpcurl, "-plaintext", ledger.target, "list").split()
    assert "rpc Deduct" in run(
        grpcurl, "-plaintext", ledger.target, "describe", "creditledger.v1.CreditLedger"
    )
    answer = json.loads(run(grpcurl, "-plaintext", "-d", json.dumps(request), ledger.target, method))

    assert_deducted(ledger, account, answer)


def test_buf_curl_deducts(ledger: Ledger, account: str) -> None:
    request = {"requestId": "by-buf", "accountId": account, "operation": "voice_creation", "quantity": "2"}
    url = f"http://{ledger.target}/creditledger.v1.CreditLedger/Deduct"

    answer = json.loads(
        run(tool("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect",
            "--data", json.dumps(request), url)
    )  # fmt: skip

    assert_deducted(ledger, account, answer)


def test_buf_curl_deducts_by_the_protos_alone(ledger: Ledger, account: str) -> None:
    request = {"request_id": "by-schema", "account_id": account, "operation": "voice_creation", "quantity": 2}
    url = f"http://{ledger.target}/creditledger.v1.CreditLedger/Deduct"

    answer = json.loads(
        run(tool("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--schema", str(ROOT / "protos"),
            "--data", json.dumps(request), url)
    )  # fmt: skip

    assert_deducted(ledger, account, answer)


def test_a_refusal_reaches_another_makers_client_whole(ledger: Ledger) -> None:
    account = ledger.open(credits_=3)
    request = {"requestId": "r", "accountId": account, "operation": "voice_creation"}
    url = f"http://{ledger.target}/creditledger.v1.CreditLedger/Deduct"
    command = [
        tool("buf"),
        "curl",
        "--protocol",
        "grpc",
        "--http2-prior-knowledge",
        "--data",
        json.dumps(request),
    ]

    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=TIMEOUT, check=False)

    assert done.returncode != 0
    told = json.loads(done.stderr)
    assert told["code"] == "failed_precondition"
    [value] = [item["value"] for item in told["details"] if item["type"] == "google.rpc.ErrorInfo"]
    info = ErrorInfo.FromString(base64.b64decode(value + "=="))
    assert (info.reason, info.domain, info.metadata["shortfall"]) == (
        "INSUFFICIENT_CREDITS",
        "creditledger",
        "2",
    )


def assert_deducted(ledger: Ledger, account: str, answer: dict[str, Any]) -> None:
    """Asserts that a JSON answer tells the deduction of two voice creations, and that it happened."""
    assert (answer["cost"], answer["balance"]["available"]) == ("10", "90")
    assert answer["entry"]["kind"] == "ENTRY_KIND_DEDUCTED"
    [_, _, entry] = ledger.entries(account)
    # Either spelling is proper JSON of a proto.
    assert entry.request_id == answer["entry"].get("requestId", answer["entry"].get("request_id"))
    assert entry.quantity == 2
