"""What was noted is read back, however its process ended."""

from __future__ import annotations

from pathlib import Path

from fault_history import HistoryLog, read_history


def test_a_call_is_read_back_with_its_answer(tmp_path: Path) -> None:
    log = HistoryLog(tmp_path / "c1.jsonl", "c1")
    call = log.sent("deduct", "user", "id", {"quantity": 1}, 1, False)
    call.outcome, call.replayed, call.digest, call.facts = "OK", True, "abc", {"revision": 3}
    log.answered(call)
    assert read_history([tmp_path / "c1.jsonl"]) == [call]


def test_a_call_that_was_never_answered_is_one_of_unknown_outcome(tmp_path: Path) -> None:
    log = HistoryLog(tmp_path / "c1.jsonl", "c1")
    log.sent("deduct", "user", "id", {}, 0, False)
    [call] = read_history([tmp_path / "c1.jsonl"])
    assert (call.outcome, call.end) == ("NO_ANSWER", None)


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "c1.jsonl"
    log = HistoryLog(path, "c1")
    call = log.sent("deduct", "user", "id", {}, 0, False)
    log.answered(call)
    path.write_bytes(path.read_bytes()[:-10])
    [read] = read_history([path])
    assert read.outcome == "NO_ANSWER"


def test_calls_of_several_processes_are_read_in_the_order_of_their_sending(tmp_path: Path) -> None:
    logs = [HistoryLog(tmp_path / f"c{number}.jsonl", f"c{number}") for number in (1, 2)]
    sent = [logs[number % 2].sent("deduct", "user", f"id-{number}", {}, 0, False) for number in range(6)]
    assert [call.request_id for call in read_history(tmp_path.glob("*.jsonl"))] == [
        c.request_id for c in sent
    ]
