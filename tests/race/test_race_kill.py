"""kill -9 of a server under load: nothing acknowledged is lost, nothing is applied twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from ledger_harness import ServerProcess
from ledger_load import (
    UNKNOWN,
    Answer,
    ClientProcess,
    Plan,
    await_true,
    by_request,
    effects,
    open_account,
    run_together,
    unequal,
    verified,
)

IDS = 4_000
ACCOUNTS = [f"account-{number}" for number in range(6)]
CALLS = [(f"id-{number}", ACCOUNTS[number % len(ACCOUNTS)]) for number in range(IDS)]
KILLS = 3


def test_what_was_sent_again_after_kills_has_one_effect_and_the_answer_it_had(
    dsn: str, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server()
    for account_id in ACCOUNTS:
        open_account(server.target, account_id, IDS)
    answers: list[Answer] = []
    for kill in range(KILLS):
        answers += _load_until_killed(dsn, server, kill)
        server = start_server()

    resent = run_together([Plan([server.target], CALLS, insist=True)])

    assert Counter(answer.outcome for answer in resent) == {"OK": IDS}
    assert effects(dsn) == IDS
    assert unequal(answers + resent) == []
    assert len(by_request(answers)) < IDS  # else nothing was left open
    assert verified(dsn) == f"accounts={len(ACCOUNTS)} entries={IDS + 2 * len(ACCOUNTS)} mismatches=0"


def _load_until_killed(dsn: str, server: ServerProcess, seed: int) -> list[Answer]:
    """Kills the server once some of the load has had its effect; each round sends all ids in another order."""
    calls = random.Random(seed).sample(CALLS, len(CALLS))
    enough = effects(dsn) + 500
    with ClientProcess(Plan([server.target], calls, callers=64, seed=seed)) as client:
        client.await_ready()
        client.go()
        await_true(lambda: effects(dsn) >= enough)
        server.kill()
        answers = client.answers()
    assert {"OK", "UNAVAILABLE"} <= {answer.outcome for answer in answers} <= UNKNOWN | {"OK"}
    return answers
