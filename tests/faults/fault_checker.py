"""Tells whether a history of calls, the entries read back after it and what watchers saw fit together: exactly.

O(n log n) in calls and entries. The model is ``fault_model``; nothing is imported from the product. What it finds is
counted under eight words:

lost      an accepted call has no entry
doubled   a request id has two entries
phantom   an entry that nobody asked for
wrong     an answer or an entry that the model contradicts at the revision it names, or an answer that must not be
stale     a call sent after another's answer was decided at a lower revision
diverged  the answers to one id differ in anything but ``replayed``
leaked    an id was accepted again with other content
gaps      revisions that are missing, or that a watcher did not see once and in order
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fault_history import OK, READS, REFUSALS, UNKNOWN, UNTRIED, Call
from fault_model import RULES, TIME_KINDS, Account
from fault_reservations import commit_denials, ended, refund_denials
from fault_terms import MOST_LOTS, PRICES, Entry

WORDS = ("lost", "doubled", "phantom", "wrong", "stale", "diverged", "leaked", "gaps")

_EXAMPLES = 5


class Watched(NamedTuple):
    """What one stream told: the entries in the order of their arrival, and the revisions it began after."""

    name: str
    after: dict[str, int]
    entries: Sequence[Entry]


class Away(NamedTuple):
    """A time during which the database could not be reached."""

    begin: float
    end: float


@dataclass
class Report:
    """What was found, by word, with a few examples of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, word: str, what: str) -> None:
        """Counts a finding."""
        self.counts[word] += 1
        if self.counts[word] <= _EXAMPLES:
            self.examples.append(f"{word}: {what}")

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.counts

    def words(self) -> str:
        """The counts as the RESULT line has them."""
        return " ".join(f"{word}={self.counts[word]}" for word in WORDS)


def check(
    calls: Sequence[Call],
    entries: Iterable[Entry],
    *,
    watched: Sequence[Watched] = (),
    away: Sequence[Away] = (),
) -> Report:
    """Checks everything that is known of a run; ``calls`` are in the order of their sending."""
    report = Report()
    calls_of: dict[str, list[Call]] = defaultdict(list)
    entries_of: dict[str, list[Entry]] = defaultdict(list)
    for call in calls:
        calls_of[call.account_id].append(call)
    for entry in entries:
        entries_of[entry.account_id].append(entry)
    for account_id in calls_of.keys() | entries_of.keys():
        history = sorted(entries_of[account_id], key=lambda entry: entry.revision)
        _AccountCheck(account_id, calls_of[account_id], history, report).run()
    for stream in watched:
        _check_stream(stream, entries_of, report)
    _check_away(calls, away, report)
    return report


class _AccountCheck:
    """One account: its calls, its entries by revision, and the model that walks along them."""

    def __init__(self, name: str, calls: list[Call], entries: list[Entry], report: Report) -> None:
        self._name = name
        self._calls = calls
        self._entries = entries
        self._report = report
        self._model = Account()
        self._requests: dict[str, list[Call]] = defaultdict(list)
        self._answers: dict[int, list[Call]] = defaultdict(list)
        self._entry_of: dict[str, Entry] = {}
        self._at = {entry.revision: entry for entry in entries}
        for call in calls:
            if call.mutates:
                self._requests[call.request_id].append(call)
            if call.outcome in REFUSALS or (call.outcome == OK and not call.mutates):
                self._answers[-1 if call.revision is None else call.revision].append(call)

    def run(self) -> None:
        """Everything."""
        self._replay()
        for calls in self._requests.values():
            self._check_request(calls)
        for call in self._calls:
            if call.outcome not in REFUSALS | UNKNOWN | UNTRIED | {OK}:
                self._add("wrong", call, f"must not be answered {call.outcome}: {call.facts}")
        self._check_order()

    def _replay(self) -> None:
        self._check_answers(0)
        previous = 0
        for entry in self._entries:
            if entry.revision > previous + 1:
                self._tell("gaps", f"nothing between revisions {previous} and {entry.revision}")
            elif entry.revision <= previous:
                self._tell("doubled", f"revision {entry.revision} comes twice")
            previous = entry.revision
            if entry.kind not in TIME_KINDS or entry.request_id:
                self._check_asked_for(entry)
            self._check_entry(entry)
            self._check_answers(entry.revision)
        for calls in self._answers.values():
            for call in calls:
                self._add("wrong", call, f"answers as of revision {call.revision}, which there is not")

    def _check_asked_for(self, entry: Entry) -> None:
        where = f"revision {entry.revision} of request {entry.request_id!r}"
        if entry.request_id in self._entry_of:
            self._tell("doubled", f"{where}, as revision {self._entry_of[entry.request_id].revision}")
        elif not any(_same(call, entry) for call in self._requests.get(entry.request_id, ())):
            self._tell("phantom", f"{where}: nobody sent {entry.kind} {entry.content}")
        self._entry_of.setdefault(entry.request_id, entry)

    def _check_entry(self, entry: Entry) -> None:
        if entry.time < self._model.time:
            self._tell("wrong", f"the time of revision {entry.revision} goes back")
        expected = self._model.expected(entry) if entry.kind in RULES else {"denials": []}
        if denials := expected.pop("denials"):
            self._tell("wrong", f"revision {entry.revision} must have been refused: {denials}")
        if differing := _differing(expected, entry.facts):
            self._tell("wrong", f"revision {entry.revision}: {differing}")
        self._model.adopt(entry)

    def _check_answers(self, revision: int) -> None:
        for call in self._answers.pop(revision, ()):
            if call.outcome == OK:
                mistake = _READ_CHECKS[call.kind](self._model, call)
            else:
                mistake = self._refusal_mistake(call)
            if mistake:
                self._add("wrong", call, mistake)

    def _refusal_mistake(self, call: Call) -> str:
        """Why a refusal cannot be right at the revision where the model stands."""
        if call.outcome == "ACCOUNT_NOT_FOUND":
            return "the account is there" if self._model.revision else ""
        if self._model.revision == 0:
            return "there is no account yet"
        accepted = self._entry_of.get(call.request_id) if call.mutates else None
        if call.outcome == "REQUEST_ID_REUSED":
            if accepted is None:
                return "the id was not accepted before"
            return "the content is the same" if _same(call, accepted) else ""
        if accepted is not None:
            return f"the id was accepted before, at revision {accepted.revision}"
        if call.outcome == "ACCOUNT_EXISTS":
            return "" if call.kind == "open" else "it does not open an account"
        return _denial_mistake(self._model, call)

    def _check_request(self, calls: list[Call]) -> None:
        """What holds of all the calls of one id."""
        entry = self._entry_of.get(calls[0].request_id)
        accepted = [call for call in calls if call.outcome == OK]
        for call in accepted:
            self._check_accepted(call, entry)
        digests = {(call.digest, call.revision) for call in accepted if entry is None or _same(call, entry)}
        if len(digests) > 1:
            self._add("diverged", accepted[-1], f"{len(digests)} different answers")

    def _check_accepted(self, call: Call, entry: Entry | None) -> None:
        if entry is None:
            self._add("lost", call, f"accepted at revision {call.revision}, and no entry has the id")
        elif not _same(call, entry):
            self._add(
                "leaked", call, f"{call.kind} {call.content} was accepted beside {entry.kind} {entry.content}"
            )
        elif differing := _differing(
            {**entry.facts, "revision": entry.revision, "time": entry.time}, call.facts
        ):
            self._add("wrong", call, differing)

    def _check_order(self) -> None:
        """Real time: nothing is decided below a revision that was told before it was sent."""
        told = _Told(self._calls)
        for call in self._calls:
            if call.outcome == OK and call.replayed:
                self._check_replay(call, told)
            elif call.revision is not None and call.outcome in REFUSALS | {OK}:
                executes = call.outcome == OK and call.mutates
                self._check_after(call, call.begin, call.revision, told, executes)
        for request_id, entry in self._entry_of.items():
            if same := [call for call in self._requests.get(request_id, ()) if _same(call, entry)]:
                self._check_after(same[0], same[0].begin, entry.revision, told, True)

    def _check_after(self, call: Call, begin: float, revision: int, told: _Told, executes: bool) -> None:
        newest = told.before(begin)
        if revision < newest + executes:
            self._add("stale", call, f"decided at {revision}, and {newest} had been told before it was sent")

    def _check_replay(self, call: Call, told: _Told) -> None:
        """What was there before a call was sent must have come from another call, one that did not deny it."""
        if call.revision is None or told.before(call.begin) < call.revision:
            return
        others = self._requests[call.request_id]
        if not any(
            other.begin < call.begin and (other.outcome == OK or other.outcome in UNKNOWN) for other in others
        ):
            self._add("wrong", call, "it was executed by a call that was told that nothing was written")

    def _add(self, word: str, call: Call, what: str) -> None:
        self._tell(word, f"{call.process}#{call.number} {call.kind} {call.request_id} {call.outcome}: {what}")

    def _tell(self, word: str, what: str) -> None:
        self._report.add(word, f"{self._name}: {what}")


class _Told:
    """The highest revision that had been told by a time."""

    def __init__(self, calls: Iterable[Call]) -> None:
        ends = sorted(
            (call.end, call.revision) for call in calls if call.end is not None and call.revision is not None
        )
        self._times = [end for end, _ in ends]
        self._highest: list[int] = []
        newest = 0
        for _, revision in ends:
            newest = max(newest, revision)
            self._highest.append(newest)

    def before(self, time: float) -> int:
        """The highest revision in answers that had come before ``time``; 0 if there were none."""
        place = bisect.bisect_left(self._times, time)
        return self._highest[place - 1] if place else 0


def _same(call: Call, entry: Entry) -> bool:
    return call.kind == entry.kind and call.content == entry.content


def _differing(expected: dict[str, Any], told: dict[str, Any]) -> str:
    """Which facts are told otherwise than expected; facts that are not told do not count as such."""
    differing = [
        f"{name}={told[name]}, not {value}"
        for name, value in expected.items()
        if told.get(name, value) != value
    ]
    return ", ".join(differing)


def _denial_mistake(model: Account, call: Call) -> str:
    """A refusal names the first rule that denies, with the figures of that rule."""
    if call.outcome == "FIELD_INVALID":
        lots = sum(lot.left > 0 or lot.held > 0 for lot in model.lots.values())
        late = "" < call.content.get("expire", "") <= call.facts["decideTime"]
        right = call.kind == "grant" and (late or lots >= MOST_LOTS)
        return "" if right else "every field is valid"
    if call.kind in _ENDINGS:
        denials = _ENDINGS[call.kind](model, call)
        return "" if denials and denials[0][0] == call.outcome else f"it is denied by {denials or 'nothing'}"
    if call.kind not in ("deduct", "reserve"):
        return "only spending is refused so"
    operation, quantity = call.content["operation"], call.content["quantity"]
    denials = model.denials(operation, quantity, call.facts["decideTime"])
    if not denials:
        return f"nothing denies it: {model.balance}, {model.limits(operation, call.facts['decideTime'])}"
    if denials[0][0] != call.outcome:
        return f"{denials[0][0]} comes first"
    expected: dict[str, Any] = {"shortfall": denials[0][1]}
    if call.outcome == "INSUFFICIENT_CREDITS":
        expected |= {"required": PRICES[operation] * quantity, "available": model.balance["available"]}
    else:
        [[_, limit, used]] = model.limits(operation, call.facts["decideTime"])
        expected |= {"limit": limit, "used": used}
    return _differing({name: str(value) for name, value in expected.items()}, call.facts)


def _end_denials(model: Account, call: Call) -> list[list[Any]]:
    reservation = model.reservations.get(call.content["reservation"])
    return [] if reservation and reservation.state == "ACTIVE" else [ended(reservation)]


_ENDINGS: dict[str, Callable[[Account, Call], list[list[Any]]]] = {
    "commit": lambda model, call: commit_denials(model, call.content, call.facts["decideTime"]),
    "release": _end_denials,
    "extend": _end_denials,
    "refund": lambda model, call: refund_denials(model, call.content),
}


def _can_perform_mistake(model: Account, call: Call) -> str:
    operation, quantity, time = call.content["operation"], call.content["quantity"], call.facts["time"]
    denials = model.denials(operation, quantity, time)
    expected = {
        **model.balance, "allowed": not denials, "denials": denials, "cost": PRICES[operation] * quantity,
        "limits": model.limits(operation, time),
    }  # fmt: skip
    return _differing(expected, call.facts) or _overdue(model, time)


def _overdue(model: Account, time: str) -> str:
    """What an answer should have counted, because its time had come."""
    return f"{model.overdue(time)} had fallen due" if model.overdue(time) else ""


def _get_balance_mistake(model: Account, call: Call) -> str:
    lots = sorted([lot.revision, lot.left] for lot in model.lots.values() if lot.left)
    expected = {**model.balance, "level": model.level, "lots": lots}
    return _differing(expected, call.facts) or _overdue(model, call.facts["time"])


_READ_CHECKS = {"can_perform": _can_perform_mistake, "get_balance": _get_balance_mistake}
assert _READ_CHECKS.keys() == READS


def _check_stream(stream: Watched, entries_of: dict[str, list[Entry]], report: Report) -> None:
    """A stream tells every entry after its beginning once and in order, as the table has it."""
    seen: dict[str, list[Entry]] = defaultdict(list)
    for entry in stream.entries:
        seen[entry.account_id].append(entry)
    for account_id, first in stream.after.items():
        expected = sorted((e for e in entries_of[account_id] if e.revision > first), key=lambda e: e.revision)
        revisions = [entry.revision for entry in seen[account_id]]
        # What time did after the stream had caught up, and before the table was read.
        while (
            expected and expected[-1].kind in TIME_KINDS and expected[-1].revision > max(revisions, default=0)
        ):
            expected.pop()
        if revisions != [entry.revision for entry in expected]:
            report.add("gaps", f"{account_id}: watcher {stream.name} saw {_short(revisions)} after {first}")
            continue
        for told, entry in zip(seen[account_id], expected, strict=True):
            if differing := _differing(_flat(entry), _flat(told)):
                report.add("wrong", f"{account_id}: watcher {stream.name} at {entry.revision}: {differing}")


def _flat(entry: Entry) -> dict[str, Any]:
    told = {"kind": entry.kind, "request_id": entry.request_id, "time": entry.time}
    return {**told, **entry.content, **entry.facts}


def _short(revisions: list[int]) -> str:
    odd = (
        [b for a, b in zip([revisions[0] - 1, *revisions], revisions, strict=False) if b != a + 1]
        if revisions
        else []
    )
    return f"{len(revisions)} revisions to {revisions[-1] if revisions else 'none'}, odd ones at {odd[:5]}"


def _check_away(calls: Iterable[Call], away: Sequence[Away], report: Report) -> None:
    """Nothing that was sent after the database went away is OK before it came back."""
    for call in calls:
        if call.outcome == OK and any(
            time.begin < call.begin and (call.end or 0.0) < time.end for time in away
        ):
            report.add("wrong", f"{call.account_id}: {call.kind} was answered OK while the database was away")
