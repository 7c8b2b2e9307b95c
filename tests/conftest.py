"""Fixtures: a database per test, or per module where its tests use accounts of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from ledger_harness import Postgres, ServerProcess, postgres_dsn, running_server

for name in [
    name for name in os.environ if name.startswith("CREDITLEDGER_") and name != "CREDITLEDGER_TEST_DSN"
]:
    del os.environ[name]  # a developer's own settings must not reach the servers under test


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The Postgres of this test run."""
    with postgres_dsn(tmp_path_factory.mktemp("postgres")) as dsn:
        running = Postgres(dsn)
        yield running
        running.close()


@pytest.fixture
def dsn(postgres: Postgres) -> Iterator[str]:
    """A fresh migrated database."""
    dsn = postgres.create_database()
    yield dsn
    postgres.drop_database(dsn)


@pytest.fixture
def server(dsn: str) -> Iterator[ServerProcess]:
    """A server on the test's database with the example catalog; killed at the end unless it has ended."""
    with running_server(dsn) as process:
        yield process


@pytest.fixture(scope="module")
def shared_dsn(postgres: Postgres) -> Iterator[str]:
    """A database for a whole module, whose tests use accounts of their own."""
    dsn = postgres.create_database()
    yield dsn
    postgres.drop_database(dsn)


@pytest.fixture(scope="module")
def shared_server(shared_dsn: str) -> Iterator[ServerProcess]:
    """A server for a whole module."""
    with running_server(shared_dsn) as process:
        yield process
