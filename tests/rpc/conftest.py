"""Calls to the server that a module's tests share, each on accounts of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ledger_calls import Ledger, unique
from ledger_harness import ServerProcess


@pytest.fixture(scope="module")
def ledger(shared_server: ServerProcess) -> Iterator[Ledger]:
    """Calls to the module's server."""
    with Ledger(shared_server.target) as calls:
        yield calls


@pytest.fixture
def account(ledger: Ledger) -> str:
    """A pro account with 100 credits, at revision 2."""
    return ledger.open(credits_=100)


@pytest.fixture
def nobody() -> str:
    """The name of an account that is not open."""
    return unique("nobody")
