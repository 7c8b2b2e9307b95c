"""The example's backend beside a ledger server of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from creditledger import CreditLedgerClient
from example_programs import running
from ledger_harness import ROOT, ServerProcess

APP = ROOT / "examples/usage_tracker/app.py"


@pytest.fixture
def ledger(server: ServerProcess) -> Iterator[CreditLedgerClient]:
    """A client of the test's server, with 100 credits for user-1 on pro, at revision 2."""
    with CreditLedgerClient(server.target) as client:
        client.open_account("user-1", level="pro")
        client.grant_credits("user-1", 100)
        yield client


@pytest.fixture
def url(server: ServerProcess, ledger: CreditLedgerClient) -> Iterator[str]:
    """Where the backend of the usage tracker is."""
    with running(APP, "--ledger", server.target, "--port", "0") as read_line:
        yield read_line().removeprefix("listening on ")
