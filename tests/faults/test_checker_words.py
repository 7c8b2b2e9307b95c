"""The checker finds each kind of mistake, and names it by its word; where nothing is wrong it finds nothing."""

from __future__ import annotations

import pytest
from fault_checker import WORDS, Away, Report
from fault_history import Call
from fault_stories import ACCOUNT, Story, copy_of, good_story
from fault_terms import Entry


def _found(report: Report) -> set[str]:
    return set(report.counts)


def test_nothing_is_found_in_a_good_history() -> None:
    story = good_story()
    assert story.check(watched=copy_of(story.entries)).examples == []


def test_the_words_of_a_report_are_those_of_the_result_line() -> None:
    assert good_story().check().words() == " ".join(f"{word}=0" for word in WORDS)


def test_calls_at_the_same_time_may_be_decided_in_either_order() -> None:
    story = Story()
    story.open()
    grant, check = story.grant("g1", 10), story.can_perform()
    check.facts.update(revision=1, available=0, granted=0, allowed=False)
    check.facts["denials"] = [["INSUFFICIENT_CREDITS", 5]]
    assert _found(story.check()) == {"stale"}
    check.begin = grant.begin
    assert _found(story.check()) == set()


def test_lost_an_accepted_call_has_no_entry() -> None:
    story = good_story()
    del story.entries[-1]
    assert "lost" in _found(story.check())


def test_lost_only_the_last_accepted_call() -> None:
    story = Story()
    story.open()
    story.grant("g1", 10)
    del story.entries[-1]
    assert _found(story.check()) == {"lost"}


def test_doubled_one_request_has_two_entries() -> None:
    story = Story()
    story.open()
    story.grant("g1", 10)
    story.deduct("d1")
    story.deduct("d1", outcome="UNAVAILABLE")
    assert _found(story.check()) == {"doubled"}


def test_phantom_an_entry_that_nobody_asked_for() -> None:
    story = Story()
    story.open()
    story.grant("g1", 10)
    story.deduct("d1")
    del story.calls[-1]
    assert _found(story.check()) == {"phantom"}


def test_phantom_an_entry_with_other_content_than_was_sent() -> None:
    story = Story()
    story.open()
    story.grant("g1", 10)
    story.deduct("d1", outcome="UNAVAILABLE")
    story.calls[-1].content["tokens"] = 7
    assert _found(story.check()) == {"phantom"}


def test_phantom_an_entry_of_an_unknown_kind() -> None:
    story = good_story()
    story.entries[-1].kind = "magic"
    assert "phantom" in _found(story.check())


@pytest.mark.parametrize(
    "figure", ["available", "granted", "spent", "reserved", "forfeited", "cost", "amount"]
)
def test_wrong_an_entry_does_not_follow_from_those_before_it(figure: str) -> None:
    story = good_story()
    story.entries[4].facts[figure] += 1
    assert "wrong" in _found(story.check())


def test_wrong_more_was_charged_than_there_was() -> None:
    story = Story()
    story.open()
    story.grant("g1", 3)
    story.deduct("d1", quantity=4)
    assert _found(story.check()) == {"wrong"}


def test_wrong_more_uses_than_the_limit_allows() -> None:
    story = Story()
    story.open()
    story.grant("g1", 1_000)
    story.deduct("d1", "voice_creation", quantity=21)
    assert _found(story.check()) == {"wrong"}


def test_wrong_grants_burn_in_another_order() -> None:
    story = good_story()
    assert story.entries[3].facts["draws"] == [[3, 3], [2, 2]]
    story.entries[3].facts["draws"] = [[2, 5]]
    assert "wrong" in _found(story.check())


def test_wrong_refused_for_lack_of_credits_that_are_there() -> None:
    story = Story()
    story.open()
    story.grant("g1", 5)
    story.insufficient("d1", 5)
    assert _found(story.check()) == {"wrong"}


def test_wrong_refused_with_wrong_figures() -> None:
    story = Story()
    story.open()
    story.insufficient("d1", 5).facts["available"] = "1"
    assert _found(story.check()) == {"wrong"}


def test_wrong_refused_although_it_was_accepted_before() -> None:
    story = Story()
    story.open()
    story.grant("g1", 5)
    story.deduct("d1", quantity=5)
    story.insufficient("d1", 5)
    assert _found(story.check()) == {"wrong"}


@pytest.mark.parametrize(("expire", "word"), [("2026-11-01T00:00:00.000000Z", set()), ("9", {"wrong"})])
def test_wrong_a_grant_is_called_late_that_has_not_ended(expire: str, word: set[str]) -> None:
    story = Story()
    story.open()
    told = {"revision": "1", "decideTime": story.time()}
    story.say("grant", "g1", "FIELD_INVALID", {"amount": 1, "priority": 0, "expire": expire}, told)
    assert _found(story.check()) == word


def test_wrong_an_id_is_called_reused_that_nobody_used() -> None:
    story = Story()
    story.open()
    story.refuse("d1", "REQUEST_ID_REUSED", 1)
    assert _found(story.check()) == {"wrong"}


def test_wrong_an_answer_at_a_revision_that_there_is_not() -> None:
    story = Story()
    story.open()
    story.get_balance().facts["revision"] = 2
    assert _found(story.check()) == {"wrong"}


@pytest.mark.parametrize(
    ("fact", "value"),
    [("allowed", True), ("denials", []), ("cost", 4), ("available", 6), ("limits", [[3, 20, 1]])],
)
def test_wrong_can_perform_says_what_deduct_would_not_do(fact: str, value: object) -> None:
    story = Story()
    story.open()
    story.can_perform().facts[fact] = value
    assert _found(story.check()) == {"wrong"}


def test_wrong_what_was_told_to_be_untried_was_executed() -> None:
    story = Story()
    story.open()
    story.grant("g1", 5)
    story.deduct("d1", outcome="SERVER_OVERLOADED")
    story.get_balance()
    story.say("deduct", "d1", "OK", story.calls[-2].content, {"revision": 3}, replayed=True)
    assert _found(story.check()) == {"wrong"}


@pytest.mark.parametrize("outcome", ["INTERNAL", "INVALID_ARGUMENT", "UNIMPLEMENTED"])
def test_wrong_an_answer_that_these_calls_must_not_get(outcome: str) -> None:
    story = Story()
    story.open()
    story.say("get_balance", "", outcome, {}, {})
    assert _found(story.check()) == {"wrong"}


def test_wrong_allowed_while_the_database_was_away() -> None:
    story = good_story()
    call = story.calls[3]
    story.away.append(Away(call.begin - 0.1, call.begin + 0.7))
    assert _found(story.check()) == {"wrong"}


def test_an_answer_to_a_call_from_before_the_database_went_away_may_come_after() -> None:
    story = good_story()
    call = story.calls[3]
    story.away.append(Away(call.begin + 0.1, call.begin + 0.7))
    assert _found(story.check()) == set()


def test_stale_a_read_does_not_see_what_was_acknowledged_before_it() -> None:
    story = Story()
    story.open()
    story.grant("g1", 10)
    call = story.get_balance()
    call.facts.update(revision=1, available=0, granted=0, lots=[])
    assert _found(story.check()) == {"stale"}


def test_stale_an_effect_at_a_revision_that_was_told_before_it_was_sent() -> None:
    story = Story()
    story.open()
    story.grant("g1", 10)
    story.deduct("d1", outcome="UNAVAILABLE")
    story.get_balance()
    late = story.calls[-2]
    late.begin = late.end = story.calls[-1].begin + 10
    story.calls.sort(key=lambda call: call.begin)
    assert _found(story.check()) == {"stale"}


def test_diverged_two_answers_to_one_request() -> None:
    story = good_story()
    story.calls[5].digest = "another"
    assert _found(story.check()) == {"diverged"}


def test_leaked_an_id_was_accepted_again_with_other_content() -> None:
    story = good_story()
    other = {**story.calls[4].content, "quantity": 4}
    story.say("deduct", "d1", "OK", other, {"revision": 4}, replayed=True)
    assert _found(story.check()) == {"leaked"}


def test_gaps_a_revision_is_missing() -> None:
    story = Story()
    story.open()
    story.grant("g1", 10)
    story.deduct("d1")
    story.entries[-1].revision = story.calls[-1].facts["revision"] = 4
    assert _found(story.check()) == {"gaps"}


@pytest.mark.parametrize(
    "spoil", ["one is missing", "one comes twice", "two are swapped", "the last is missing"]
)
def test_gaps_a_watcher_did_not_see_every_revision_once_and_in_order(spoil: str) -> None:
    story = good_story()
    seen = copy_of(story.entries)
    match spoil:
        case "one is missing":
            del seen[2]
        case "one comes twice":
            seen.insert(2, seen[1])
        case "two are swapped":
            seen[2], seen[3] = seen[3], seen[2]
        case _:
            del seen[-1]
    assert _found(story.check(watched=seen)) == {"gaps"}


def test_wrong_a_watcher_saw_another_entry_than_the_table_has() -> None:
    story = good_story()
    seen = copy_of(story.entries)
    seen[3].facts["available"] += 1
    assert _found(story.check(watched=seen)) == {"wrong"}


def test_each_account_has_revisions_of_its_own() -> None:
    one, other = good_story(), good_story()
    told: list[Call | Entry] = [*other.calls, *other.entries]
    for each in told:
        each.account_id = f"another {ACCOUNT}"
    one.calls += other.calls
    one.entries += other.entries
    assert one.check().examples == []
