"""Servers that share a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from ledger_harness import ServerProcess, running_server

StartServer = Callable[..., ServerProcess]


@pytest.fixture
def start_server(dsn: str) -> Iterator[StartServer]:
    """Starts a server on the test's database; killed at the end."""
    with ExitStack() as stack:

        def start(*options: str, env: dict[str, str] | None = None) -> ServerProcess:
            return stack.enter_context(running_server(dsn, *options, env=env))

        yield start


@pytest.fixture
def targets(start_server: StartServer) -> list[str]:
    """Where two servers are."""
    return [start_server().target, start_server().target]
