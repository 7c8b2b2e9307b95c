"""The table in docs/errors.md is that of the protos, the client and the server."""

from __future__ import annotations

import re

import grpc
from creditledger.errors import class_of
from creditledger.v1.error_reason_pb2 import ErrorReason
from creditledger_server.domain.refusal import Reason
from ledger_harness import ROOT

PAGE = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
PROTO = (ROOT / "protos/creditledger/v1/error_reason.proto").read_text(encoding="utf-8")

REASONS = [name.removeprefix("ERROR_REASON_") for name, number in ErrorReason.items() if number]


def _rows() -> list[list[str]]:
    """The cells of each row, without backticks."""
    return [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("| `")
    ]


def test_every_reason_has_a_row() -> None:
    assert [row[0] for row in _rows()] == REASONS


def test_codes_are_those_of_the_proto() -> None:
    told = re.findall(r"\n\n  // ([A-Z_]+)[.;](?:.*\n  //)*.*\n  ERROR_REASON_([A-Z_]+) =", PROTO)
    assert [(row[1], row[0]) for row in _rows()] == told


def test_classes_are_those_of_the_client() -> None:
    for reason, code, _, name, _ in _rows():
        assert class_of(grpc.StatusCode[code], reason).__name__ == name, reason


def test_every_row_says_what_to_do_and_what_to_tell() -> None:
    for reason, _, http, _, action in _rows():
        assert http == "—" or 400 <= int(http) <= 503, reason
        assert action, reason


def test_http_hints_of_the_proto_are_kept() -> None:
    http = {row[0]: row[2] for row in _rows()}
    assert (http["INSUFFICIENT_CREDITS"], http["LIMIT_EXCEEDED"]) == ("402", "429")


def test_reasons_not_sent_yet_are_those_that_the_server_does_not_know() -> None:
    [text] = re.findall(r"does not send these yet: (.*?)\.\n", PAGE, flags=re.DOTALL)
    assert set(re.findall(r"`([A-Z_]+)`", text)) == set(REASONS) - {reason.value for reason in Reason}
