"""When a stream owes a sign of life."""

from __future__ import annotations

import asyncio
import random


class Beat:
    """Comes due about every ``seconds``, jittered so that thousands of streams do not beat together."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._clock = asyncio.get_running_loop().time
        self._next = self._clock() + self._jittered()

    def left(self) -> float:
        """Seconds until it is due."""
        return max(0.0, self._next - self._clock())

    def is_due(self) -> bool:
        """Whether it is due; if so, the next one is a whole interval away."""
        due = self._clock() >= self._next
        if due:
            self._next = self._clock() + self._jittered()
        return due

    def _jittered(self) -> float:
        return self._seconds * random.uniform(0.9, 1.1)
