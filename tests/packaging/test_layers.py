"""What import-linter cannot say: that the domain imports nothing but itself and the standard library."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import creditledger_server.domain
import pytest

DOMAIN = Path(creditledger_server.domain.__file__).parent


@pytest.mark.parametrize("file", sorted(DOMAIN.rglob("*.py")), ids=lambda file: file.stem)
def test_domain_imports_only_the_standard_library(file: Path) -> None:
    foreign = [name for name in _imports(file) if name.partition(".")[0] not in sys.stdlib_module_names]
    assert not foreign


def _imports(file: Path) -> list[str]:
    """What a file imports, save from its own package."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level != 1:
            found.append("." * node.level + (node.module or ""))
    return found
