"""How often an account may be told of."""

from __future__ import annotations

from heapq import heappop, heappush


class Pace:
    """Lets each account through once per ``interval`` seconds; 0: always. Times are those of one clock, in seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._next: dict[str, float] = {}  # when an account may be told of again
        self._waiting: list[tuple[float, str]] = []  # a heap: who was turned away, by when it may come again

    def admits(self, account_id: str, now: float) -> bool:
        """Whether an account may be told of now; if not, ``due`` names it once it may."""
        at = self._next.get(account_id, now)
        if at > now and (at, account_id) not in self._waiting:
            heappush(self._waiting, (at, account_id))
        return at <= now

    def told(self, account_id: str, now: float) -> None:
        """Notes that an account was told of."""
        if self._interval:
            self._next[account_id] = now + self._interval

    def due(self, now: float) -> str | None:
        """An account that was turned away and whose turn has come."""
        if self._waiting and self._waiting[0][0] <= now:
            return heappop(self._waiting)[1]
        return None

    def left(self, now: float) -> float:
        """Seconds until an account is due; infinite if none waits."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else float("inf")
