"""Histories made by hand, for the tests of the checker: a story goes well, and then a test spoils it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fault_checker import Away, Report, Watched, check
from fault_history import Call
from fault_model import RULES, TIME_KINDS, Account
from fault_terms import PRICES, Entry

ACCOUNT = "user"


class Story:
    """One account's calls, one after the other unless told otherwise, and the entries that they made."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.entries: list[Entry] = []
        self.away: list[Away] = []
        self._model = Account()
        self._clock = 0.0

    def check(self, watched: list[Entry] | None = None) -> Report:
        """What the checker says of it."""
        streams = [] if watched is None else [Watched("w", {ACCOUNT: 0}, watched)]
        return check(self.calls, self.entries, watched=streams, away=self.away)

    def write(self, kind: str, request_id: str, outcome: str = "OK", **content: Any) -> Call:
        """A mutation that is carried out, and answered so."""
        entry = Entry(ACCOUNT, self._model.revision + 1, kind, request_id, content, self.time(), {})
        facts = self._model.expected(entry)
        del facts["denials"]
        entry.facts = facts
        self._model.adopt(entry)
        self.entries.append(entry)
        told = {**facts, "revision": entry.revision, "time": entry.time} if outcome == "OK" else {}
        return self.say(kind, request_id, outcome, content, told)

    def open(self) -> Call:
        """Opens the account."""
        return self.write("open", "open", level="pro")

    def grant(self, request_id: str, amount: int, priority: int = 0) -> Call:
        """Grants credits."""
        return self.write("grant", request_id, amount=amount, priority=priority, reason="bought", expire="")

    def deduct(
        self, request_id: str, operation: str = "chat_refinement", quantity: int = 1, outcome: str = "OK"
    ) -> Call:
        """Charges a use."""
        return self.write("deduct", request_id, outcome, operation=operation, quantity=quantity, tokens=0)

    def replay(self, call: Call) -> Call:
        """Sends a call again; it gets the answer that it had."""
        return self.say(call.kind, call.request_id, "OK", call.content, call.facts, replayed=True)

    def refuse(self, request_id: str, outcome: str, quantity: int, **told: Any) -> Call:
        """A deduction that is refused now."""
        content = {"operation": "chat_refinement", "quantity": quantity, "tokens": 0}
        facts = {"revision": str(self._model.revision), "decideTime": self.time(), **told}
        return self.say("deduct", request_id, outcome, content, facts)

    def end(self, request_id: str, outcome: str, reserved: Call) -> Call:
        """A release that is refused now."""
        facts = {"revision": str(self._model.revision), "decideTime": self.time()}
        return self.say("release", request_id, outcome, {"reservation": reserved.revision}, facts)

    def insufficient(self, request_id: str, quantity: int) -> Call:
        """A deduction that is refused for lack of credits."""
        required, available = PRICES["chat_refinement"] * quantity, self._model.balance["available"]
        told = {"required": required, "available": available, "shortfall": required - available}
        return self.refuse(
            request_id, "INSUFFICIENT_CREDITS", quantity, **{k: str(v) for k, v in told.items()}
        )

    def can_perform(self, operation: str = "voice_creation", quantity: int = 1) -> Call:
        """Whether it may, answered rightly."""
        denials = self._model.denials(operation, quantity, self.time())
        facts = {
            **self._model.balance, "revision": self._model.revision, "time": self.time(), "allowed": not denials,
            "denials": denials, "cost": PRICES[operation] * quantity,
            "limits": self._model.limits(operation, self.time()),
        }  # fmt: skip
        return self.say("can_perform", "", "OK", {"operation": operation, "quantity": quantity}, facts)

    def get_balance(self) -> Call:
        """The balance, answered rightly."""
        lots = sorted([lot.revision, lot.left] for lot in self._model.lots.values() if lot.left)
        facts = {
            **self._model.balance, "revision": self._model.revision, "time": self.time(),
            "level": self._model.level, "lots": lots,
        }  # fmt: skip
        return self.say("get_balance", "", "OK", {}, facts)

    def say(
        self, kind: str, request_id: str, outcome: str, content: dict[str, Any], facts: dict[str, Any],
        replayed: bool = False,
    ) -> Call:  # fmt: skip
        """A call with whatever answer."""
        self._clock += 1.0
        digest = f"digest of {request_id}" if outcome == "OK" and request_id else ""
        call = Call(
            "p", len(self.calls) + 1, kind, ACCOUNT, request_id, dict(content), 0, False, self._clock,
            self._clock + 0.5, outcome, replayed, digest, dict(facts),
        )  # fmt: skip
        self.calls.append(call)
        return call

    def time(self) -> str:
        """The database's time."""
        return f"2026-11-22T17:00:{self._clock:09.6f}Z"


def good_story() -> Story:
    """A bit of everything, and nothing wrong with it."""
    story = Story()
    story.open()
    story.grant("g1", 10, priority=1)
    story.grant("g2", 3)
    story.can_perform()
    first = story.deduct("d1", quantity=5)
    story.replay(first)
    story.deduct("d2", outcome="UNAVAILABLE")
    story.say("deduct", "d2", "OK", story.calls[-1].content, _told(story.entries[-1]), replayed=True)
    story.say(
        "deduct", "d3", "DEADLINE_EXCEEDED", {"operation": "chat_refinement", "quantity": 1, "tokens": 0}, {}
    )
    story.deduct("d3")
    story.refuse("d1", "REQUEST_ID_REUSED", 4)
    story.insufficient("d4", 50)
    story.can_perform("video_processing", 51)
    story.get_balance()
    charged = story.deduct("d5", "voice_creation")
    story.grant("g3", 20)
    held = story.write("reserve", "r1", operation="video_processing", quantity=2, ttl=60)
    story.can_perform()
    story.write("extend", "e1", reservation=held.revision, ttl=60)
    story.write("commit", "c1", reservation=held.revision, quantity=1, tokens=0)
    story.end("c2", "RESERVATION_COMMITTED", held)
    other = story.write("reserve", "r2", operation="chat_refinement", quantity=3, ttl=60)
    story.write("release", "l1", reservation=other.revision)
    story.write("refund", "f1", revision=charged.revision, amount=2)
    story.get_balance()
    return story


def copy_of(entries: list[Entry]) -> list[Entry]:
    """Entries that may be spoiled without the others."""
    return [replace(entry, facts=dict(entry.facts), content=dict(entry.content)) for entry in entries]


def _told(entry: Entry) -> dict[str, Any]:
    return {**entry.facts, "revision": entry.revision, "time": entry.time}


assert RULES.keys() - TIME_KINDS == {
    "open", "grant", "deduct", "reserve", "commit", "release", "extend", "refund"
}, "a new kind of entry belongs into the good story"  # fmt: skip
