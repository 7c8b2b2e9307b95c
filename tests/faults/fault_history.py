"""What the clients of a fault test note: every call before it is sent, and its answer when it comes.

One file per process, append-only, a JSON array per line. Times are seconds of CLOCK_MONOTONIC, which all processes of
a machine share. A call without an answer is one whose client was cut off, and its outcome is unknown.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK = "OK"

REFUSALS = frozenset(
    {
        "INSUFFICIENT_CREDITS",
        "LIMIT_EXCEEDED",
        "REQUEST_ID_REUSED",
        "ACCOUNT_NOT_FOUND",
        "ACCOUNT_EXISTS",
        "RESERVATION_COMMITTED",
        "RESERVATION_RELEASED",
        "RESERVATION_EXPIRED",
        "RESERVATION_NOT_FOUND",
        "REFUND_EXCEEDS_COST",
        "FIELD_INVALID",  # of a grant that has ended before it arrives, or finds too many
    }
)
"""Answers by which the ledger decides against a call; each tells the revision at which it did."""

UNTRIED = frozenset({"CONTENTION", "SERVER_OVERLOADED", "DEADLINE_PASSED"})
"""Answers that promise that nothing was written, without deciding anything."""

UNKNOWN = frozenset(
    {
        "NO_ANSWER",
        "STORAGE_UNAVAILABLE",
        "SHUTTING_DOWN",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "CANCELLED",
        "BROKEN",
    }
)
"""Outcomes after which a call may have happened, or not, or not yet."""

READS = frozenset({"can_perform", "get_balance"})


@dataclass(slots=True)
class Call:
    """One call, or one item of a batch, and how it ended.

    ``content`` is what makes two requests of one id the same. ``facts`` is what the answer told, ``digest`` stands for
    every field of it but ``replayed``.
    """

    process: str
    number: int
    kind: str
    account_id: str
    request_id: str
    content: dict[str, Any]
    target: int
    resolving: bool
    begin: float
    end: float | None = None
    outcome: str = "NO_ANSWER"
    replayed: bool = False
    digest: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def mutates(self) -> bool:
        """Whether it may write."""
        return self.kind not in READS

    @property
    def revision(self) -> int | None:
        """The revision that the answer names; None if it names none."""
        revision = self.facts.get("revision")
        return None if revision is None else int(revision)


class HistoryLog:
    """Appends the calls of one process to its file."""

    def __init__(self, path: Path, process: str) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def sent(
        self,
        kind: str,
        account_id: str,
        request_id: str,
        content: dict[str, Any],
        target: int,
        resolving: bool,
    ) -> Call:
        """Notes a call that is about to be sent."""
        call = Call(
            self._process, next(self._numbers), kind, account_id, request_id, content, target, resolving, 0.0
        )
        call.begin = time.monotonic()
        self._append(
            [
                "sent",
                call.process,
                call.number,
                kind,
                account_id,
                request_id,
                content,
                target,
                resolving,
                call.begin,
            ]
        )
        return call

    def answered(self, call: Call) -> None:
        """Notes how it ended, as of now."""
        call.end = time.monotonic()
        self._append(
            ["answered", call.number, call.end, call.outcome, call.replayed, call.digest, call.facts]
        )

    def _append(self, record: list[Any]) -> None:
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")


def read_history(paths: Iterable[Path]) -> list[Call]:
    """The calls of several files, in the order in which they were sent. A last line cut short is left out."""
    calls = [call for path in paths for call in _read(path)]
    return sorted(calls, key=lambda call: call.begin)


def _read(path: Path) -> Iterable[Call]:
    calls: dict[int, Call] = {}
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        what, *values = json.loads(line)
        if what == "sent":
            calls[values[1]] = Call(*values)
        else:
            call = calls[values[0]]
            call.end, call.outcome, call.replayed, call.digest, call.facts = values[1:]
    return calls.values()
