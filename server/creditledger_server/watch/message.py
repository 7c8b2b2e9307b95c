"""What streams consist of."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from ..domain.entry import Entry
from ..ledger.history import Standing


class Signal(Enum):
    """Messages without a content of their own."""

    CAUGHT_UP = "caught_up"
    HEARTBEAT = "heartbeat"


class Summary(NamedTuple):
    """The entries of an account from one revision to that of ``last``, told together.

    ``changes`` are those of the watched kinds, and ``credits`` is what these charged, less refunds.
    """

    from_revision: int
    changes: int
    credits: int
    last: Entry


class Message:
    """One message of a stream; ``cursor`` resumes after it.

    Streams share messages; ``wire`` is where whoever sends them keeps what it has made of one, for the others.
    """

    __slots__ = ("body", "cursor", "wire")

    def __init__(self, cursor: str, body: Standing | Entry | Summary | Signal) -> None:
        self.cursor = cursor
        self.body = body
        self.wire: Any = None


class Change:
    """An entry on its way to the streams. ``alone``: its message in a stream of its account alone, once it is made."""

    __slots__ = ("alone", "entry")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.alone: Message | None = None
