"""What the pages point to is there, and the README's list of what is not served is right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from creditledger.v1 import credit_ledger_pb2, ledger_admin_pb2
from creditledger_server.rpc.credit_ledger import CreditLedgerService
from creditledger_server.rpc.ledger_admin import LedgerAdminService
from ledger_harness import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
FOLDERS = "client|docs|examples|migrations|protos|server|tests"
"""What the README lists for some option only."""


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in _anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_make_knows_what_it_is_told_to_make(page: Path, fences: Callable[[str, str], list[str]]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"^make ([a-z-]+)", "".join(fences(_name(page), "sh")), flags=re.MULTILINE)
    for target in [*commands, *re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))]:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_readme_lists_exactly_what_is_not_served() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [section] = re.findall(r"^## What is not served yet\n(.*?)^## ", readme, flags=re.MULTILINE | re.DOTALL)
    services = [
        (credit_ledger_pb2.DESCRIPTOR.services_by_name["CreditLedger"], CreditLedgerService),
        (ledger_admin_pb2.DESCRIPTOR.services_by_name["LedgerAdmin"], LedgerAdminService),
    ]
    methods = {method.name for service, _ in services for method in service.methods}
    served = {
        method.name
        for service, servicer in services
        for method in service.methods
        if method.name in vars(servicer)
    }
    listed = set(re.findall(r"`(\w+)`", section)) & methods
    assert listed == methods - served


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
