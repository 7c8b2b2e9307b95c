"""Unary load by ghz, a client in Go.

Its requests are serialized beforehand: templates (``{{.UUID}}``) cost ghz a third more of the CPU that it shares with
the server. It gets one thread, because what it would use beyond that the server lacks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from creditledger.v1 import credit_ledger_pb2
from creditledger.v1.credit_ledger_pb2 import CanPerformRequest, DeductRequest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message

from .sample import Sample, random_account
from .site import OPERATION, BenchError

IN_FLIGHT = 64
CONNECTIONS = 8
MISSING = "ghz is not on PATH: .ci/run installs it into .tools/bin, or go install github.com/bojand/ghz/cmd/ghz@latest"


def available() -> bool:
    """Whether ghz can be called."""
    return shutil.which("ghz") is not None


def version() -> str:
    """The version that ghz tells, on stderr in some builds."""
    result = subprocess.run(["ghz", "--version"], capture_output=True, text=True, check=True)
    return (result.stdout or result.stderr).strip()


class Ghz:
    """Calls one method with fresh messages on random accounts. ``folder`` takes its input files."""

    def __init__(self, folder: Path, target: str, method: str, accounts: range) -> None:
        self._input = folder / "ghz.bin"
        self._target = target
        self._method = method
        self._accounts = accounts
        self._make = _MAKERS[method]
        self._protoset = folder / "creditledger.protoset"
        self._protoset.write_bytes(_described(credit_ledger_pb2.DESCRIPTOR))

    def __call__(self, count: int) -> Sample:
        """Sends ``count`` calls, 64 at a time. Raises BenchError unless all are answered OK."""
        _write_delimited(self._input, (self._make(random_account(self._accounts)) for _ in range(count)))
        with subprocess.Popen(self._command(count), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            report = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise BenchError(f"ghz ended with exit status {process.returncode}")
        result = json.loads(report)
        if result["statusCodeDistribution"] != {"OK": count}:
            raise BenchError(f"ghz was answered {result['statusCodeDistribution']}, not {count} times OK")
        return Sample(count, result["total"] / 1e9, usage.ru_utime + usage.ru_stime)

    def _command(self, count: int) -> list[str]:
        options = {
            "--protoset": self._protoset, "--call": f"creditledger.v1.CreditLedger.{self._method}",
            "--binary-file": self._input, "--total": count, "--concurrency": IN_FLIGHT,
            "--connections": CONNECTIONS, "--cpus": 1, "--format": "json",
        }  # fmt: skip
        return ["ghz", "--insecure", *(f"{name}={value}" for name, value in options.items()), self._target]


def _deduct(account: str) -> Message:
    return DeductRequest(request_id=uuid.uuid4().hex, account_id=account, operation=OPERATION)


def _can_perform(account: str) -> Message:
    return CanPerformRequest(account_id=account, operation=OPERATION)


_MAKERS: dict[str, Callable[[str], Message]] = {"Deduct": _deduct, "CanPerform": _can_perform}


def _write_delimited(file: Path, messages: Iterable[Message]) -> None:
    """Messages with their lengths before them, all below 2^14 bytes."""
    parts = []
    for message in messages:
        data = message.SerializeToString()
        assert len(data) < 1 << 14
        size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
        parts += [size, data]
    file.write_bytes(b"".join(parts))


def _described(descriptor: FileDescriptor) -> bytes:
    """The file and all that it imports. ghz's own parser of .proto files does not know ``optional``."""
    files = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name not in seen:
            seen.add(file.name)
            for dependency in file.dependencies:
                add(dependency)
            file.CopyToProto(files.file.add())

    add(descriptor)
    return files.SerializeToString()
