"""The check of what watchers noted finds each kind of mistake, and names it by its word."""

from __future__ import annotations

from pathlib import Path

import pytest
from watch_notes import WatchReport, check_notes, read_notes

KINDS = dict.fromkeys(range(1, 8), "deduct")
GOOD = [
    ">\t0\t",
    "snapshot\tuser\t2\tc2",
    "change\tuser\t3\tdeduct\t0.1\tc3",
    "<\tLEFT",
    ">\t1\tc3",
    "change\tuser\t4\tdeduct\t0.1\tc4",
    "caught_up\tc4",
    "change\tuser\t5\tdeduct\t0.1\tc5",
    "summary\tuser\t6\t7\t2\tc7",
    "<\tDONE",
]


def _found(path: Path, lines: list[str], until: int = 7) -> dict[str, int]:
    (path / "w.watch").write_text("\n".join(lines) + "\n")
    report = WatchReport()
    check_notes(read_notes(path / "w.watch"), {"user": KINDS}, {"user": 2}, {"user": until}, report)
    return dict(report.counts)


def test_nothing_is_found_in_good_notes(tmp_path: Path) -> None:
    assert _found(tmp_path, GOOD) == {}
    notes = read_notes(tmp_path / "w.watch")
    assert (notes.ends, notes.resumed, notes.starts) == ({"LEFT": 1, "DONE": 1}, 1, {"user": 2})
    assert [(told.target, told.live) for told in notes.told] == [(0, True), (1, False), (1, True), (1, True)]


def test_a_watcher_of_all_accounts_has_no_snapshot(tmp_path: Path) -> None:
    assert _found(tmp_path, [line for line in GOOD if "snapshot" not in line]) == {}


@pytest.mark.parametrize(
    ("line", "instead", "found"),
    [
        ("change\tuser\t3\t", [], {"gaps": 1}),
        ("summary", [], {"gaps": 2}),
        ("change\tuser\t3\t", 2 * ["change\tuser\t3\tdeduct\t0.1\tc3"], {"repeats": 1}),
        ("change\tuser\t3\t", [f"change\tuser\t{n}\tdeduct\t0.1\tc3" for n in (2, 3)], {"repeats": 1}),
        ("change\tuser\t3\t", ["change\tuser\t3\tgrant\t0.1\tc3"], {"wrong": 1}),
        ("summary", ["summary\tuser\t6\t7\t1\tc7"], {"wrong": 1}),
        ("summary", ["summary\tuser\t6\t8\t3\tc7"], {"wrong": 1}),
        ("caught_up", 2 * ["caught_up\tc4"], {"wrong": 1}),
        ("caught_up", ["snapshot\tuser\t4\tc4", "caught_up\tc4"], {"wrong": 1, "repeats": 2}),
    ],
    ids=["missing", "missing at the end", "again", "before the snapshot", "other kind", "other count", "unknown",
         "caught up twice", "second snapshot"],
)  # fmt: skip
def test_a_mistake_is_found(tmp_path: Path, line: str, instead: list[str], found: dict[str, int]) -> None:
    lines: list[str] = []
    for each in GOOD:
        lines += instead if each.startswith(line) else [each]
    assert _found(tmp_path, lines) == found


def test_revisions_that_change_places_are_reordered(tmp_path: Path) -> None:
    lines = [*GOOD]
    lines[2], lines[5] = lines[5], lines[2]
    assert _found(tmp_path, lines) == {"reordered": 1}
