"""The pages of the documentation, and the programs in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from creditledger import CreditLedgerClient
from ledger_harness import ROOT, ServerProcess


@pytest.fixture
def fences() -> Callable[[str, str], list[str]]:
    """The texts of the fenced blocks of a page that are in one language."""

    def find(page: str, language: str) -> list[str]:
        text = (ROOT / page).read_text(encoding="utf-8")
        return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)

    return find


@pytest.fixture
def ledger(server: ServerProcess) -> Iterator[CreditLedgerClient]:
    """A client of the test's server."""
    with CreditLedgerClient(server.target) as client:
        yield client
