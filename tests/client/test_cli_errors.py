"""What ``creditledger`` says when something does not work: one line with the reason, and how it ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cli_runs import Cli, id_to_repeat
from click.testing import CliRunner
from creditledger import AccountState, CreditLedgerClient, GetBalanceResponse
from creditledger.cli.commands import commands
from creditledger.v1.credit_ledger_pb2_grpc import (
    CreditLedgerServicer,
    add_CreditLedgerServicer_to_server,
)
from ledger_calls import unique
from ledger_harness import ServerProcess

MUTATIONS = {
    "Deduct": ("deduct", "user-1", "voice_creation"),
    "GrantCredits": ("grant", "user-1", "100"),
    "PurchasePackage": ("buy", "user-1", "starter", "--payment", "pay-1"),
}


@pytest.fixture(scope="module")
def ledger(shared_server: ServerProcess) -> Iterator[CreditLedgerClient]:
    with CreditLedgerClient(shared_server.target) as client:
        yield client


@pytest.fixture(scope="module")
def cli(shared_server: ServerProcess) -> Cli:
    return Cli(shared_server.target)


@pytest.fixture
def account(ledger: CreditLedgerClient) -> str:
    """An account on free with 10 credits."""
    account = unique("account")
    ledger.open_account(account, level="free")
    ledger.grant_credits(account, 10)
    return account


@pytest.fixture
def fake(server: Any) -> Cli:
    """The command, with the scripted server as its target."""
    return Cli(server.target)


def test_refusals_are_a_line_with_their_reason(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    short = cli.failure("deduct", account, "chat_refinement", "--quantity", "11")
    assert short == "INSUFFICIENT_CREDITS: 11 credits are required and 10 available"
    limited = cli.failure("deduct", account, "voice_creation", "--quantity", "2")
    assert limited.startswith("LIMIT_EXCEEDED: voice_creation: ")
    ledger.update_account(account, state=AccountState.ACCOUNT_STATE_FROZEN)
    assert cli.failure("deduct", account, "chat_refinement").startswith("ACCOUNT_FROZEN: ")


@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["people", "json"])
@pytest.mark.parametrize("command", ["balance", "entries"])
def test_unknown_account_is_a_line_for_people_and_programs(
    cli: Cli, command: str, as_json: tuple[str, ...]
) -> None:
    assert cli.failure(command, "nobody", *as_json).startswith("ACCOUNT_NOT_FOUND: ")


def test_every_field_that_the_server_does_not_take_is_named(cli: Cli, account: str) -> None:
    line = cli.failure("deduct", account, "No Such", "--request-id", "no spaces please")
    assert line.startswith("FIELD_INVALID: ")
    assert "operation: must match " in line
    assert "request_id: " in line


def test_request_id_of_another_call_is_refused(cli: Cli, account: str) -> None:
    cli.text("grant", account, "1", "--request-id", "mine")
    assert cli.failure("grant", account, "2", "--request-id", "mine").startswith("REQUEST_ID_REUSED: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("grant", "user-1"),
        ("grant", "user-1", "12.50"),
        ("grant", "user-1", "0"),
        ("grant", "user-1", "1000000000000001"),
        ("grant", "user-1", "1", "--expires", "soon"),
        ("grant", "user-1", "1", "--priority", "high"),
        ("deduct", "user-1", "voice_creation", "--quantity", "0"),
        ("deduct", "user-1", "voice_creation", "--metric", "tokens"),
        ("deduct", "user-1", "voice_creation", "--metric", "tokens=-1"),
        ("entries", "user-1", "--kind", "stolen"),
        ("entries", "user-1", "--limit", "0"),
        ("usage", "user-1", "--zone", "Atlantis/Capital"),
        ("usage", "user-1", "--zone", "../etc/passwd"),
        ("usage", "user-1", "--bucket", "hour"),
        ("watch",),
        ("buy", "user-1", "starter"),
        ("refill", "user-1"),
    ],
    ids=" ".join,
)
def test_usage_errors_end_with_status_2_and_send_nothing(server: Any, arguments: tuple[str, ...]) -> None:
    result = CliRunner(env={"CREDITLEDGER_TARGET": server.target}).invoke(commands, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
    assert not server.requests


def test_amount_with_a_point_is_told_what_to_write(fake: Cli) -> None:
    result = fake.run("grant", "user-1", "12.50")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: creditledger grant ")
    assert "12.50 is written 1250" in result.stderr


@pytest.mark.parametrize("method", MUTATIONS)
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["people", "json"])
def test_unknown_outcome_tells_the_request_id_that_was_sent(
    fake: Cli, server: Any, method: str, as_json: tuple[str, ...]
) -> None:
    server.always(method, server.error(grpc.StatusCode.UNKNOWN, message="lost\nit"))
    line = fake.failure(*MUTATIONS[method], *as_json)
    assert line.startswith("UNKNOWN: lost it; ")
    [sent] = server.requests[method]
    assert id_to_repeat(line) == sent.request_id


def test_unknown_outcome_tells_the_id_that_was_given(fake: Cli, server: Any) -> None:
    server.always("Deduct", server.error(grpc.StatusCode.INTERNAL, "INTERNAL"))
    assert id_to_repeat(fake.failure(*MUTATIONS["Deduct"], "--request-id", "job-7")) == "job-7"


def test_interrupted_mutation_tells_its_request_id(fake: Cli, server: Any) -> None:
    arrived, interrupted = threading.Event(), threading.Event()

    def hold(request: Any, context: Any) -> Any:
        arrived.set()
        interrupted.wait(20)
        context.abort(grpc.StatusCode.CANCELLED, "")

    server.always("Deduct", hold)
    with ThreadPoolExecutor(1) as pool:
        process = fake.start(*MUTATIONS["Deduct"])
        ended = pool.submit(process.communicate, timeout=20)
        assert arrived.wait(20)
        process.send_signal(signal.SIGINT)
        out, error = ended.result()
        interrupted.set()
    assert (process.returncode, out) == (1, "")
    assert error.startswith("error: interrupted; ")
    assert id_to_repeat(error.strip()) == server.requests["Deduct"][0].request_id


def test_repeating_what_never_arrived_carries_it_out(cli: Cli, account: str, free_port: int) -> None:
    line = Cli(f"127.0.0.1:{free_port}").failure("grant", account, "5", "--json")
    assert line.startswith("UNAVAILABLE: ")
    again = ("grant", account, "5", "--request-id", id_to_repeat(line))
    assert cli.lines(*again) == [f"granted 5 to {account} as g3; available: 15"]
    assert cli.json("balance", account)["balance"]["available"] == "15"


@pytest.mark.parametrize(
    "arguments", [("balance", "user-1"), ("watch", "user-1"), ("watch", "user-1", "--json")]
)
def test_server_that_is_not_there_is_told_in_a_line(free_port: int, arguments: tuple[str, ...]) -> None:
    assert Cli(f"127.0.0.1:{free_port}").failure(*arguments).startswith("UNAVAILABLE: ")


def test_option_goes_before_the_environment(cli: Cli, account: str, free_port: int) -> None:
    lost = Cli(f"127.0.0.1:{free_port}")
    assert lost.json("balance", account, "--target", cli.target)["account"]["account_id"] == account


def test_reader_that_leaves_gets_no_traceback(cli: Cli, ledger: CreditLedgerClient, account: str) -> None:
    for _ in range(3):
        ledger.grant_credits(account, 1)
    pipeline = f"{sys.executable} -m creditledger.cli watch {account} | head -n 1"
    process = subprocess.Popen(
        ["sh", "-c", pipeline], env=cli.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(account)
    ledger.grant_credits(account, 1)
    ledger.grant_credits(account, 1)
    assert process.communicate(timeout=20) == ("", "")


def test_letters_that_the_terminal_lacks_are_replaced(
    cli: Cli, ledger: CreditLedgerClient, account: str
) -> None:
    ledger.grant_credits(account, 1, reason="5 € more")
    assert "5 ? more" in cli.text("entries", account, PYTHONIOENCODING="latin-1")


@pytest.mark.parametrize("command", ["", *commands.commands])
def test_help_teaches(command: str) -> None:
    result = CliRunner().invoke(commands, [*command.split(), "--help"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) > 8


class Balances(CreditLedgerServicer):
    """Tells a balance, and nothing else."""

    def GetBalance(self, request: Any, context: grpc.ServicerContext) -> GetBalanceResponse:
        return GetBalanceResponse(revision=7)


@contextmanager
def encrypting_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """A server with a certificate that it has signed itself: where it is, and the certificate."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", *options, *names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        # gRPC itself does not ask for every method.
        add_CreditLedgerServicer_to_server(Balances(), server)  # type: ignore[abstract]
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield f"localhost:{port}", certificate
        finally:
            server.stop(0).wait()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_trusts_the_authorities_that_are_named_and_no_others(tmp_path: Path) -> None:
    with encrypting_server(tmp_path) as (target, certificate):
        cli = Cli(target)
        assert cli.json("balance", "user-1", "--ca-file", str(certificate)) == {"revision": "7"}
        for options in ([], ["--tls"]):
            result = cli.run("balance", "user-1", "--json", *options)
            assert (result.returncode, result.stdout) == (1, "")
            # Before it gRPC logs on stderr what it did not like about the connection.
            assert result.stderr.splitlines()[-1].startswith("error: UNAVAILABLE: ")


def test_authorities_that_are_not_there_are_told_in_a_line(fake: Cli) -> None:
    assert fake.failure("balance", "user-1", "--ca-file", "gone.pem") == "gone.pem: No such file or directory"
