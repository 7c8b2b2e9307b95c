"""One request id from many callers at once: one effect, and one answer for all."""

from __future__ import annotations

from collections import Counter

from ledger_load import Plan, by_request, effects, open_account, run_together, unequal, verified

IDS = 2_000


def test_2000_request_ids_from_four_callers_at_once_have_2000_effects_and_one_answer_each(
    dsn: str, targets: list[str]
) -> None:
    calls = [(f"id-{number}", f"account-{number % 4}") for number in range(IDS)]
    for number in range(4):
        open_account(targets[0], f"account-{number}", IDS)
    plans = [Plan(order, calls, copies=2, callers=16, insist=True) for order in (targets, targets[::-1])]

    answers = run_together(plans)

    assert Counter(answer.outcome for answer in answers) == {"OK": 4 * IDS}
    assert effects(dsn) == IDS
    assert unequal(answers) == []
    assert Counter(answer.replayed for answer in answers) == {False: IDS, True: 3 * IDS}
    assert verified(dsn) == f"accounts=4 entries={IDS + 8} mismatches=0"


def test_of_two_contents_at_once_under_one_request_id_one_is_carried_out_and_the_other_refused(
    dsn: str, targets: list[str]
) -> None:
    ids = 300
    calls = [(f"id-{number}", "account") for number in range(ids)]
    open_account(targets[0], "account", 10 * ids)
    plans = [
        Plan(order, calls, copies=2, callers=8, insist=True, operation=operation, failed=True)
        for order, operation in ((targets, "chat_refinement"), (targets[::-1], "voice_creation"))
    ]

    answers = run_together(plans)

    assert Counter(answer.outcome for answer in answers) == {"OK": 2 * ids, "REQUEST_ID_REUSED": 2 * ids}
    assert effects(dsn) == ids
    assert unequal(answers) == []
    assert len(by_request(answers)) == len(by_request(answers, "REQUEST_ID_REUSED")) == ids
