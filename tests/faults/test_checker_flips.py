"""One field that is told wrongly, whichever it is, does not pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fault_history import Call
from fault_stories import Story, good_story
from fault_terms import Entry

TOLD_FOR_PEOPLE = {"decideTime", "time"}
"""Times only place a decision in its month; they must not fall, which is another test's matter."""


def _flips(story: Story) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every fact of every entry and answer of a story."""
    told: list[Entry | Call] = [*story.entries, *(call for call in story.calls if call.facts)]
    for each in told:
        for name in each.facts:
            if name not in TOLD_FOR_PEOPLE:
                yield f"{each}", each.facts, name


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{int(value) + 1}" if value.isdigit() else f"{value}x"
    return [*value, [1, 1]]


def test_every_single_field_that_is_changed_is_found() -> None:
    story = good_story()
    missed = []
    flips = list(_flips(story))
    for where, facts, name in flips:
        before = facts[name]
        facts[name] = _other(before)
        if story.check().clean:
            missed.append((where, name))
        facts[name] = before
    assert len(flips) > 100
    assert missed == []
    assert story.check().clean


def test_times_that_go_back_are_found() -> None:
    story = good_story()
    story.entries[3].time = "2026-11-22T16:59:59.000000Z"
    assert "wrong" in story.check().counts
