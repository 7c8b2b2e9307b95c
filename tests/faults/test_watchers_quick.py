"""Watchers that resume at random while servers are killed, for some seconds; ``make faults`` does it for longer."""

from __future__ import annotations

import random

import pytest
from watch_run import WATCH_FAULTS, run_watchers

ENTRIES = 3_000


@pytest.mark.parametrize("name", ["watchers", "watchers_out_of_order"])
def test_watchers_see_every_entry_once_and_in_order_under(name: str) -> None:
    [fault] = [fault for fault in WATCH_FAULTS if fault.name == name]
    result = run_watchers(fault, random.SystemRandom().randrange(1_000_000), ENTRIES / fault.entries)
    assert result.verdict == "PASS", "\n".join([result.line, *result.details])
