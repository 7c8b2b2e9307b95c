"""Where to cut: at the points around COMMIT in Postgres's protocol, and at an answer in HTTP/2."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Iterator
from enum import Enum

from tcp_proxy import Cut, Watch


class Point(Enum):
    """When a COMMIT is cut off."""

    BEFORE = "before"  # Postgres never gets the message that commits
    SENT = "sent"  # it gets it, and no answer ever comes back
    DONE = "done"  # its CommandComplete comes back, its ReadyForQuery does not


class Cutter:
    """Decides at which COMMITs, or answers, connections are cut: at one in ``every``, unless that is 0.

    ``row`` is the most cuts that follow upon each other, so that what the server sends again is cut as well. Behind a
    third of the cuts nothing ``admits`` connections for up to 200 ms.
    """

    def __init__(self, seed: int, row: int = 1) -> None:
        self.every = 0
        self.times: list[float] = []
        self._closed_until = 0.0
        self._row = row
        self._left = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def cuts_now(self) -> bool:
        """Whether this one is cut."""
        with self._lock:
            if not self.every:
                self._left = 0
                return False
            if not self._left and self._random.randrange(self.every) == 0:
                self._left = self._random.randint(1, self._row)
            if not self._left:
                return False
            self._left -= 1
            self.times.append(time.monotonic())
            if self._random.randrange(3) == 0:
                self._closed_until = self.times[-1] + self._random.uniform(0.03, 0.2)
            return True

    def admits(self) -> bool:
        """Whether new connections are let through."""
        return time.monotonic() >= self._closed_until


class _Commits:
    """Finds COMMIT in whatever way it is sent: as a query, or parsed, prepared, bound and executed."""

    def __init__(self) -> None:
        self._messages = _Messages(first_has_no_type=True)
        self._statements: dict[bytes, bytes] = {}
        self._portals: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The kind of each message that commits."""
        for kind, body, _raw in self._messages.feed(data):
            if self._commits(kind, body):
                yield kind

    def _commits(self, kind: bytes, body: bytes) -> bool:
        if kind == b"Q":
            return _is_commit(body[:-1])
        if kind == b"P":
            name, query = body.split(b"\0")[:2]
            self._statements[name] = query
        elif kind == b"B":
            portal, name = body.split(b"\0")[:2]
            self._portals[portal] = self._statements.get(name, b"")
        return kind == b"E" and _is_commit(self._portals.get(body.split(b"\0")[0], b""))


class CommitDelays(Watch):
    """Lets some COMMITs wait for up to so many seconds, others not, so that they overtake each other."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._commits = _Commits()

    def upward(self, data: bytes) -> bytes:
        """Looks for a COMMIT; whatever comes in one chunk with it waits with it."""
        for _ in self._commits.feed(data):
            time.sleep(random.choice((0.0, 0.0, 0.2, 1.0)) * random.uniform(0, self._seconds))
        return data


class CommitCuts(Watch):
    """Cuts a connection off at a COMMIT."""

    def __init__(self, cutter: Cutter, point: Point) -> None:
        self._cutter = cutter
        self._point = point
        self._commits = _Commits()
        self._down = _Messages(first_has_no_type=False)
        self._cut_at_answer = False

    def upward(self, data: bytes) -> bytes:
        """Looks for a COMMIT on its way to Postgres."""
        for kind in self._commits.feed(data):
            if self._cutter.cuts_now():
                if self._point is Point.BEFORE:
                    raise Cut
                if self._point is Point.SENT:
                    # The whole chunk, and a Sync in case that was to come in the next.
                    raise Cut(data + (b"" if kind == b"Q" else b"S\0\0\0\4"), deaf=True)
                self._cut_at_answer = True
        return data

    def downward(self, data: bytes) -> bytes:
        """Looks for what Postgres says upon it."""
        passed = b""
        for kind, body, raw in self._down.feed(data):
            passed += raw
            if self._cut_at_answer and kind == b"C" and body.startswith(b"COMMIT\0"):
                raise Cut(passed)
        return data


class AnswerCuts(Watch):
    """Cuts in front of a message that a gRPC server sends: what it answers has happened, and nobody is told."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._rest = b""

    def downward(self, data: bytes) -> bytes:
        """Looks for DATA frames. The frames before one may be cut with it: all are of this moment."""
        self._rest += data
        while len(self._rest) >= 9:
            size = int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < 9 + size:
                break
            kind = self._rest[3]
            self._rest = self._rest[9 + size :]
            if kind == 0 and self._cutter.cuts_now():
                raise Cut
        return data


class _Messages:
    """Takes a stream apart into messages of Postgres's protocol."""

    def __init__(self, first_has_no_type: bool) -> None:
        self._rest = b""
        self._head = 0 if first_has_no_type else 1

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Type, body and raw bytes of each message that is complete."""
        self._rest += data
        while len(self._rest) >= self._head + 4:
            [size] = struct.unpack_from("!I", self._rest, self._head)
            end = self._head + size
            if len(self._rest) < end:
                return
            raw, self._rest = self._rest[:end], self._rest[end:]
            kind, body = raw[: self._head], raw[self._head + 4 :]
            self._head = 1
            yield kind, body, raw


def _is_commit(query: bytes) -> bool:
    return query.strip(b" ;\n").upper() == b"COMMIT"
