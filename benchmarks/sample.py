"""What one round of one row measured, and the names that all load uses."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple


class Sample(NamedTuple):
    """One round: operations that were answered OK, in how many seconds, and the load generator's CPU seconds for them.

    ``figure`` is what the row tells where that is not the rate: of calls made one by one their median in milliseconds.
    ``per_commit`` is how many operations were in a transaction, where the load knows it; ``written`` the deductions
    made, where they are not the operations; ``mismatches`` what the load itself found wrong; ``details`` more to tell.
    """

    operations: int
    seconds: float
    cpu_seconds: float
    figure: float = 0.0
    per_commit: float = 0.0
    written: int | None = None
    mismatches: int = 0
    details: Mapping[str, float] = {}

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


def account_name(number: int) -> str:
    """What the account of that number is called."""
    return f"account-{number}"


def random_account(numbers: range) -> str:
    """One of the accounts of these numbers."""
    return account_name(numbers[int(random.random() * len(numbers))])
