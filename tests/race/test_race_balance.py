"""Many callers, two servers, one account: exactly what it can pay for succeeds, and the history has one order."""

from __future__ import annotations

from collections import Counter

from ledger_load import Answer, Plan, open_account, rows, run_together, verified

CREDITS = 10_000
CALLS = 20_000


def test_of_20000_deductions_at_once_exactly_the_10000_that_the_credits_cover_succeed(
    dsn: str, targets: list[str]
) -> None:
    open_account(targets[0], "hot", CREDITS)

    answers = run_together(_three_processes(targets))

    assert Counter(answer.outcome for answer in answers) == {
        "OK": CREDITS,
        "INSUFFICIENT_CREDITS": CALLS - CREDITS,
    }
    assert sorted(answer.revision for answer in answers if answer.outcome == "OK") == list(
        range(3, CREDITS + 3)
    )
    assert verified(dsn) == f"accounts=1 entries={CREDITS + 2} mismatches=0"
    assert rows(dsn, "SELECT available, spent, granted FROM account") == [(0, CREDITS, CREDITS)]
    assert _refused_with_credits_left(answers) == []
    assert _out_of_order(answers) == []


def _three_processes(targets: list[str]) -> list[Plan]:
    """64 callers over 8 connections, 4 to each server."""
    calls = [(f"call-{number}", "hot") for number in range(CALLS)]
    shares = [(22, 3, targets), (21, 3, targets[::-1]), (21, 2, targets)]
    return [
        Plan(order, calls[part::3], connections=connections, callers=callers, insist=True)
        for part, (callers, connections, order) in enumerate(shares)
    ]


def _refused_with_credits_left(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.outcome != "OK" and answer.told["available"] != "0"]


def _out_of_order(answers: list[Answer]) -> list[tuple[Answer, int]]:
    """Answers whose revision lies before one that was told before their call began: contract §3, promise 4."""
    by_begin = sorted(answers, key=lambda answer: answer.begin)
    by_end = iter(sorted(answers, key=lambda answer: answer.end))
    ended = next(by_end)
    newest, wrong = 0, []
    for answer in by_begin:
        while ended.end < answer.begin:
            newest = max(newest, ended.revision)
            ended = next(by_end)
        if answer.revision < newest or (answer.outcome == "OK" and answer.revision == newest):
            wrong.append((answer, newest))
    return wrong
