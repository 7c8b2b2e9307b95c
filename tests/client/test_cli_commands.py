"""Each command of ``creditledger`` against a real server: what it does, and what it prints for people and programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_runs import Cli
from creditledger import CreditLedgerClient, DeductRequest
from ledger_calls import unique
from ledger_harness import Postgres, ServerProcess, running_server


@pytest.fixture(scope="module")
def ledger(shared_server: ServerProcess) -> Iterator[CreditLedgerClient]:
    with CreditLedgerClient(shared_server.target) as client:
        yield client


@pytest.fixture(scope="module")
def cli(shared_server: ServerProcess) -> Cli:
    return Cli(shared_server.target)


@pytest.fixture(scope="module")
def cents(postgres: Postgres) -> Iterator[ServerProcess]:
    """A server whose amounts have two decimals."""
    dsn = postgres.create_database()
    with running_server(dsn, env={"CREDITLEDGER_DECIMALS": "2"}) as process:
        yield process
    postgres.drop_database(dsn)


@pytest.fixture
def account(ledger: CreditLedgerClient) -> str:
    """An account on pro with 100 credits."""
    return opened(ledger, 100)


def opened(ledger: CreditLedgerClient, amount: int) -> str:
    account = unique("account")
    ledger.open_account(account, level="pro")
    ledger.grant_credits(account, amount, reason="welcome")
    return account


def test_grant_gives_credits_and_tells_them(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    line = cli.text("grant", account, "20", "--reason", "thanks", "--priority", "-3")
    assert line == f"granted 20 to {account} as g3; available: 120\n"
    grant = next(each for each in ledger.get_balance(account).grants if each.grant_id == "g3")
    assert (grant.amount, grant.reason, grant.priority) == (20, "thanks", -3)


def test_grant_as_json_is_the_answer_with_the_names_of_the_api(cli: Cli, account: str) -> None:
    answer = cli.json("grant", account, "20", "--request-id", "more")
    assert answer["grant"]["grant_id"] == "g3"
    assert (answer["entry"]["request_id"], answer["balance"]["available"]) == ("more", "120")


def test_mutations_with_a_request_id_happen_once(cli: Cli, account: str) -> None:
    for command in (["grant", account, "20"], ["deduct", account, "voice_creation"]):
        identified = [*command, "--request-id", unique("id")]
        first, second = cli.lines(*identified)[0], cli.lines(*identified)[0]
        assert second == f"{first} (had been carried out before)"
    assert cli.json("balance", account)["balance"]["available"] == "115"


def test_deduct_charges_and_tells_the_limits_that_it_counts_towards(cli: Cli, account: str) -> None:
    assert cli.lines("deduct", account, "voice_creation", "--quantity", "2") == [
        f"charged {account} 10 for voice_creation x2; available: 90",
        "voice_creation per month: 2 of 20",
    ]


def test_deduct_tells_the_ledger_what_the_use_was(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    options = ["--metric", "tokens=1834", "--metric", "images=2", "--service", "openai"]
    answer = cli.json("deduct", account, "chat_refinement", *options)
    entry = ledger.get_entry(account, revision=int(answer["entry"]["revision"])).entry
    assert (dict(entry.usage.metrics), entry.usage.service) == ({"tokens": 1834, "images": 2}, "openai")


def test_deduct_without_usage_sends_none(cli: Cli, account: str) -> None:
    assert "usage" not in cli.json("deduct", account, "chat_refinement")["entry"]


def test_deduct_at_a_level_moves_the_account_to_it(
    cli: Cli, ledger: CreditLedgerClient, account: str
) -> None:
    assert "voice_creation per month: 1 of 1" in cli.lines(
        "deduct", account, "voice_creation", "--level", "free"
    )
    assert ledger.get_account(account).account.level == "free"


def test_balance_tells_credits_limits_and_grants(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    ledger.deduct(account, "voice_creation", quantity=20)
    ledger.grant_credits(account, 7)
    lines = cli.lines("balance", account)
    assert lines[0] == f"{account}: level pro, active, revision 4"
    for line in ("available 7", "reserved 0", "granted 107", "spent 100", "forfeited 0"):
        assert line in lines
    reset = ledger.get_balance(account).limits[0].reset_time.ToDatetime()
    assert f"voice_creation per month 20 20 {reset:%Y-%m-%d} 00:00:00Z" in lines
    assert "g4 7 7 0 admin never" in lines


def test_balance_as_json_is_the_answer(cli: Cli, account: str) -> None:
    answer = cli.json("balance", account)
    assert answer["account"]["account_id"] == account
    assert answer["balance"] == {"available": "100", "granted": "100"}


def test_entries_lists_the_newest_first(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    charge = ledger.deduct(account, "voice_creation").entry
    header, newest, *others = cli.lines("entries", account)
    assert header == "revision time kind operation amount available reason"
    assert newest == f"3 {charge.create_time.ToDatetime():%Y-%m-%d %H:%M:%SZ} deducted voice_creation -5 95"
    assert [line.split()[0] for line in others] == ["2", "1"]
    assert others[0].endswith("granted +100 100 welcome")


def test_entries_as_json_is_a_line_for_each(cli: Cli, account: str) -> None:
    first, second = cli.json_lines("entries", account, "--oldest-first")
    assert (first["kind"], first["revision"]) == ("ENTRY_KIND_OPENED", "1")
    assert (second["kind"], second["amount"]) == ("ENTRY_KIND_GRANTED", "100")


def test_entries_of_kinds_and_an_operation(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    ledger.deduct(account, "voice_creation")
    ledger.deduct(account, "chat_refinement")

    def revisions(*options: str) -> list[str]:
        return [entry["revision"] for entry in cli.json_lines("entries", account, *options)]

    assert revisions("--kind", "deducted", "--kind", "granted") == ["4", "3", "2"]
    assert revisions("--operation", "voice_creation") == ["3"]
    assert revisions("--kind", "refunded") == []


def test_entries_goes_over_pages_up_to_its_limit(cli: Cli, ledger: CreditLedgerClient) -> None:
    account = opened(ledger, 2_000)
    requests = [DeductRequest(account_id=account, operation="chat_refinement") for _ in range(999)]
    ledger.batch_deduct(requests)
    ledger.batch_deduct(requests[:50])
    for limit in (1, 1_000, 1_030):
        found = cli.json_lines("entries", account, "--limit", str(limit))
        assert [int(entry["revision"]) for entry in found] == list(range(1051, 1051 - limit, -1))
    assert len(cli.json_lines("entries", account, "--limit", "5000")) == 1051


def test_packages_are_those_of_the_catalog(cli: Cli) -> None:
    header, starter, studio = cli.lines("packages")
    assert header == "package name credits price features"
    assert starter == "starter Starter 100 9.90 EUR 100 credits; Never expire"
    assert studio.startswith("studio Studio 500 39.00 EUR ")
    assert [each["package_id"] for each in cli.json("packages")["packages"]] == ["starter", "studio"]


def test_buy_grants_a_package_once_per_payment(cli: Cli, account: str) -> None:
    payment = unique("payment")
    line = cli.text("buy", account, "starter", "--payment", payment)
    assert line == f"granted 100 to {account} as g3; available: 200\n"
    again = cli.json("buy", account, "starter", "--payment", payment)
    assert (again["replayed"], again["grant"]["grant_id"]) == (True, "g3")
    assert cli.failure("buy", account, "studio", "--payment", payment).startswith(
        "PAYMENT_REFERENCE_REUSED: "
    )
    assert cli.failure("buy", account, "gold", "--payment", "pay").startswith("PACKAGE_UNKNOWN: ")


def test_grant_with_times_begins_and_ends_with_them(cli: Cli, account: str) -> None:
    later, never = "2999-01-01", "2999-12-31T12:00+02:00"
    line = cli.text("grant", account, "20", "--starts", later, "--expires", never)
    times = "from 2999-01-01 00:00:00Z, until 2999-12-31 10:00:00Z"
    assert line == f"granted 20 to {account} as g3, {times}; available: 100\n"
    cli.text("grant", account, "5", "--expires", never)
    assert "g4 5 5 0 admin 2999-12-31 10:00:00Z" in cli.lines("balance", account)


def test_amounts_are_shown_with_the_decimals_of_the_ledger(cents: ServerProcess) -> None:
    cli = Cli(cents.target)
    with CreditLedgerClient(cents.target) as ledger:
        ledger.open_account("user-1", level="pro")
    assert cli.text("grant", "user-1", "1250") == "granted 12.50 to user-1 as g2; available: 12.50\n"
    assert cli.lines("deduct", "user-1", "voice_creation")[0].endswith(
        "0.05 for voice_creation; available: 12.45"
    )
    assert "available 12.45" in cli.lines("balance", "user-1")
    amounts = [line.split()[-2:] for line in cli.lines("entries", "user-1")[1:]]
    assert amounts == [["-0.05", "12.45"], ["+12.50", "12.50"], ["0.00", "0.00"]]
    short = cli.failure("deduct", "user-1", "chat_refinement", "--quantity", "2000")
    assert short == "INSUFFICIENT_CREDITS: 20.00 credits are required and 12.45 available"


def test_amounts_in_json_are_in_the_minor_unit(cents: ServerProcess) -> None:
    with CreditLedgerClient(cents.target) as ledger:
        ledger.open_account("user-2", level="pro")
    answer = Cli(cents.target).json("grant", "user-2", "1250")
    assert (answer["grant"]["amount"], answer["balance"]["available"]) == ("1250", "1250")


def test_what_users_wrote_is_shown_and_not_obeyed(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    ledger.grant_credits(account, 1, reason="[red]for you[/red] :smile: \u202elive")
    for command in ("entries", "balance"):
        assert "[red]for you[/red] :smile:  live" in cli.text(command, account)


def test_output_without_a_terminal_has_no_colours_and_whole_lines(
    cli: Cli, ledger: CreditLedgerClient, account: str
) -> None:
    reason = "because " * 40 + "of that"
    ledger.grant_credits(account, 1, reason=reason)
    for environment in ({}, {"COLUMNS": "40"}, {"FORCE_COLOR": "1"}):
        printed = cli.text("entries", account, **environment)
        assert "\x1b" not in printed
        assert reason in printed
        assert not [line for line in printed.splitlines() if line.endswith(" ")]


def test_output_in_a_terminal_fits_it(cli: Cli, account: str) -> None:
    with cli.in_terminal("balance", account, width=60) as screen:
        screen.await_text(r"g2 100 100 0 admin never welcome")
    assert "\x1b[1m" in screen.drawn
