"""The example's backend beside a ledger server of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from creditledger import CreditLedgerClient
from ledger_harness import ServerProcess
from tracker_backend import running_backend


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
    with running_backend(server.target) as address:
        yield address
