"""What is counted of calls and streams; see ``ledger.counts``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from ..domain.decide import Accepted
from ..domain.entry import Entry
from ..domain.refusal import Reason, Refused
from ..ledger.counts import Distribution
from ..watch.message import Message, Signal, Summary

LEFT = "CANCELLED"
"""How a call or stream ends whose caller has left, or let its deadline pass."""


class CallCounts:
    """Calls by method: ``seconds`` unary ones also by status code, ``refused`` those refused also by reason.

    ``open`` are streams; ``ended`` counts them also by how they ended: a reason, ``LEFT``, or OK.
    """

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], Distribution] = {}
        self.refused: Counter[tuple[str, Reason]] = Counter()
        self.open: Counter[str] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()

    def answered(self, method: str, code: str, seconds: float) -> None:
        """Counts a unary call."""
        found = self.seconds.get((method, code))
        if found is None:
            found = self.seconds[method, code] = Distribution()
        found.add(seconds)


class AnswerCounts:
    """What answers consist of.

    ``deductions`` by the reason of a refusal, or whether what was accepted had been before; a single one that is
    refused is a refused call, and not here. ``lag`` of watchers is in seconds, ``summarized`` counts entries.
    """

    def __init__(self) -> None:
        self.deductions: Counter[Reason | bool] = Counter()
        self.lag = Distribution()
        self.summarized = 0

    def deducted(self, answers: Iterable[Accepted | Refused]) -> None:
        """Counts deductions. Whatever is done here per answer, every deduction pays for."""
        self.deductions.update(
            [answer.reason if isinstance(answer, Refused) else answer.replayed for answer in answers]
        )

    def delivers(self, message: Message, live: bool) -> bool:
        """Counts a message; ``live``: entries are told as they are written. Returns whether they are from now on."""
        body = message.body
        if isinstance(body, Entry):
            if live:
                self.lag.add(max(0.0, time.time() - body.create_time / 1_000_000))
        elif isinstance(body, Summary):
            self.summarized += body.changes
        elif body is Signal.CAUGHT_UP:
            return True
        return live
