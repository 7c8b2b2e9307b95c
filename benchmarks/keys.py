"""The figures of `make bench`: each a ratio of two rows of the same run, with what it must and what it should reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Key:
    """``row`` ÷ the sum of ``against``, round by round; the row's own value where that is empty.

    ``floor`` None: printed without judgement.
    """

    name: str
    meaning: str
    row: str
    against: tuple[str, ...]
    floor: float | None = None
    aim: float | None = None
    lower_is_better: bool = False

    @property
    def rows(self) -> tuple[str, ...]:
        """All rows that it needs."""
        return (self.row, *self.against)

    def reached(self, value: float) -> bool:
        """Whether a value is at the floor or better."""
        if self.floor is None:
            return True
        return value <= self.floor if self.lower_is_better else value >= self.floor


KEYS = (
    Key("unary_vs_echo", "Deduct, 64 in flight ÷ an echo of the same messages", "unary", ("unary_echo",), 0.55, 0.8),
    Key("canperform_vs_echo", "the same for CanPerform", "can_perform", ("can_perform_echo",), 0.70, 0.9),
    Key(
        "batch_vs_textbook", "BatchDeduct of 100, 8 in flight ÷ a transaction per deduction, 8 connections",
        "batch", ("textbook",), 6, 12,
    ),
    Key("hot_vs_textbook", "the same on one account", "batch_hot", ("textbook_hot",), 15, 40),
    Key("hot_vs_spread", "BatchDeduct on one account ÷ on 10,000", "batch_hot", ("batch",), 1.0, 1.5),
    Key("batch_vs_postgres", "BatchDeduct ÷ its statements alone, by pgbench", "batch", ("postgres",), 0.35, 0.6),
    Key(
        "client_batching", "256 concurrent deduct() with batching=True ÷ without",
        "client_256_batching", ("client_256",), 5, 10,
    ),
    Key(
        "client_batching_64", "the same with 64 concurrent",
        "client_64_batching", ("client_64",), 2.5, 5,
    ),
    Key(
        "idle_latency", "p50 of a lone Deduct ÷ (p50 of a lone echo + p50 of a textbook transaction)",
        "lone", ("lone_echo", "lone_textbook"), 1.5, 1.0, lower_is_better=True,
    ),
    Key(
        "unary_features_vs_echo", "unary_vs_echo with limits, an allowance and expiring grants in use",
        "unary_features", ("unary_echo",), 0.55, 0.8,
    ),
    Key(
        "canperform_features_vs_echo", "canperform_vs_echo with them",
        "can_perform_features", ("can_perform_echo",), 0.70, 0.9,
    ),
    Key(
        "batch_features_vs_textbook", "batch_vs_textbook with them, on both sides",
        "batch_features", ("textbook_features",), 6, 12,
    ),
    Key(
        "batch_features_vs_plain_textbook", "with them ÷ the textbook transaction without",
        "batch_features", ("textbook",),
    ),
    Key(
        "loaded_account", "p50 of a lone Deduct on an account with 100 grants and 1,000 reservations ÷ on others",
        "lone_loaded", ("lone_features",), 3, 1.5, lower_is_better=True,
    ),
    Key(
        "loaded_account_batch", "BatchDeduct on that account ÷ on one without",
        "batch_loaded", ("batch_hot",), 1 / 3, 0.7,
    ),
    Key("workers_2_unary", "Deduct, 64 in flight: 2 workers ÷ 1", "unary_workers_2", ("unary",)),
    Key("workers_2_batch", "BatchDeduct of 100, 8 in flight: 2 workers ÷ 1", "batch_workers_2", ("batch",)),
)  # fmt: skip


def judge(keys: Sequence[Key], rounds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Each key's figures from the values of each row's rounds, as they go into the results; None: rows are missing."""
    return {key.name: _judged(key, rounds) for key in keys}


def _judged(key: Key, rounds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "meaning": key.meaning,
        "floor": key.floor,
        "aim": key.aim,
        "lower_is_better": key.lower_is_better,
    }
    if not all(rounds.get(row) for row in key.rows):
        return {**said, "value": None, "min": None, "max": None, "ok": None}
    ratios = [
        value / (sum(below) if below else 1)
        for value, *below in zip(*(rounds[row] for row in key.rows), strict=True)
    ]
    value = median(ratios)
    return {**said, "value": value, "min": min(ratios), "max": max(ratios), "ok": key.reached(value)}
