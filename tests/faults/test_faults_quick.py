"""The quickest of the faults, for a few seconds each; ``make faults`` runs all of them."""

from __future__ import annotations

import random

import pytest
from fault_list import FAULTS
from fault_run import run_fault

SECONDS = 2.5


@pytest.mark.parametrize("name", ["terminate_backends", "commit_sent"])
def test_nothing_is_lost_doubled_or_wrong_under(name: str) -> None:
    [fault] = [fault for fault in FAULTS if fault.name == name]
    result = run_fault(fault, random.SystemRandom().randrange(1_000_000), SECONDS)
    assert result.verdict == "PASS", "\n".join([result.line, *result.details])
