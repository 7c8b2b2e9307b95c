"""``creditledger watch``: lines where there is no terminal, a view where there is one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from cli_runs import Cli
from creditledger import AccountState, CreditLedgerClient
from ledger_calls import unique
from ledger_harness import ServerProcess, running_server


@pytest.fixture(scope="module")
def ledger(shared_server: ServerProcess) -> Iterator[CreditLedgerClient]:
    with CreditLedgerClient(shared_server.target) as client:
        yield client


@pytest.fixture(scope="module")
def cli(shared_server: ServerProcess) -> Cli:
    return Cli(shared_server.target)


@pytest.fixture
def account(ledger: CreditLedgerClient) -> str:
    """An account on free with 100 credits, at revision 2."""
    account = unique("account")
    ledger.open_account(account, level="free")
    ledger.grant_credits(account, 100)
    return account


def test_lines_tell_the_balance_then_each_change_as_it_happens(
    cli: Cli, ledger: CreditLedgerClient, account: str
) -> None:
    with cli.running("watch", account) as run:
        assert run.line() == f"{account} revision 2 available 100"
        ledger.deduct(account, "chat_refinement", quantity=3)
        assert re.fullmatch(
            rf"{account} revision 3 \S+ \S+Z deducted chat_refinement x3 -3 available 97",
            run.line(),
        )
        ledger.grant_credits(account, 4)
        assert re.fullmatch(rf"{account} revision 4 \S+ \S+Z granted \+4 available 101", run.line())


def test_json_is_each_message_of_the_stream_as_a_line(
    cli: Cli, ledger: CreditLedgerClient, account: str
) -> None:
    with cli.running("watch", account, "--json") as run:
        snapshot = json.loads(run.line())
        assert (snapshot["snapshot"]["revision"], bool(snapshot["cursor"])) == ("2", True)
        ledger.deduct(account, "chat_refinement")
        assert json.loads(run.line())["change"]["entry"]["revision"] == "3"


def test_accounts_named_twice_are_watched_once(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    other = unique("account")
    ledger.open_account(other)
    with cli.running("watch", account, other, account) as run:
        assert {run.line().split()[0], run.line().split()[0]} == {account, other}


def test_unknown_account_is_told_in_a_line(cli: Cli) -> None:
    assert cli.failure("watch", "nobody").startswith("ACCOUNT_NOT_FOUND: ")
    assert cli.failure("watch", "nobody", "--json").startswith("ACCOUNT_NOT_FOUND: ")


def test_view_shows_balance_limits_and_newest_entries_as_they_change(
    cli: Cli, ledger: CreditLedgerClient, account: str
) -> None:
    with cli.in_terminal("watch", account) as screen:
        screen.await_text(rf"{account} free active 100 0 100 0 0 .* granted \+100 100")
        ledger.deduct(account, "voice_creation")
        screen.await_text(
            rf"{account} free active 95 0 100 5 0 .* voice_creation per month 1 1 .* deducted voice_creation -5 95"
        )
        screen.ctrl_c()


def test_view_follows_level_and_state(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    with cli.in_terminal("watch", account) as screen:
        screen.await_text("script_generation per month 0 3 ")
        ledger.update_account(account, level="pro")
        screen.await_text(rf"{account} pro active .* script_generation per month 0 100 ")
        ledger.update_account(account, state=AccountState.ACCOUNT_STATE_FROZEN)
        screen.await_text(rf"{account} pro frozen ")
        screen.ctrl_c()


def test_view_of_several_accounts_says_whose_entry_it_is(
    cli: Cli, ledger: CreditLedgerClient, account: str
) -> None:
    other = unique("account")
    ledger.open_account(other, level="pro")
    with cli.in_terminal("watch", account, other) as screen:
        screen.await_text(rf"{other} 1 \S+ \S+ opened 0 0 {account} 2 \S+ \S+ granted \+100 100")
        ledger.grant_credits(other, 7)
        screen.await_text(rf"{other} 2 \S+ \S+ granted \+7 7 {other} 1 ")
        screen.ctrl_c()


def test_view_says_that_the_server_is_away_and_goes_on_when_it_is_back(dsn: str) -> None:
    with running_server(dsn) as first, CreditLedgerClient(first.target) as ledger:
        ledger.open_account("user-1", level="free")
        with Cli(first.target).in_terminal("watch", "user-1") as screen:
            screen.await_text("user-1 free active 0 ")
            first.kill()
            screen.await_text("watch_usage was interrupted")
            with running_server(dsn, "--listen", first.target):
                ledger.grant_credits("user-1", 7, timeout=20)
                screen.await_text("user-1 free active 7 .* granted .* Ctrl-C ends this")
                screen.ctrl_c()
