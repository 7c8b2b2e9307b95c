"""What one round of one row measured, and the names that all load uses."""

from __future__ import annotations

import random
from typing import NamedTuple


class Sample(NamedTuple):
    """One round: operations that were answered OK, in how many seconds, and the load generator's CPU seconds for them.

    ``p50_ms`` is the median of single calls, where they were made one by one; ``per_commit`` how many operations were
    in a transaction, where the load knows it.
    """

    operations: int
    seconds: float
    cpu_seconds: float
    p50_ms: float = 0.0
    per_commit: float = 0.0

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
