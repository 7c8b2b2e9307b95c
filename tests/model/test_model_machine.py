"""The ledger against its model, as a state machine that shrinks what fails; ``make model`` is the long way."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from ledger_harness import Postgres
from model_catalog import DAY
from model_catalogs import quiet_catalog
from model_example import Example
from model_looks import WEIGHTS
from model_rules import Rule, many_grants, restart, sweep
from model_world import Server, World, world

PROFILE = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
"""Seconds, not minutes, and the same examples each time."""


class Worlds:
    """A world, and another one when that is spent: to shrink a failure takes many examples."""

    def __init__(self, stack: ExitStack, postgres: Postgres) -> None:
        self._stack = stack
        self._postgres = postgres
        self._world: World | None = None

    def present(self) -> World:
        """One that can be used."""
        if self._world is None or self._world.spent:
            self._world = self._stack.enter_context(world(self._postgres))
        return self._world


class LedgerMachine(RuleBasedStateMachine):
    """The rules of the campaign, chosen by Hypothesis. Each draws a number that makes its further choices."""

    worlds: ClassVar[Worlds]
    numbers = itertools.count(1)

    @initialize(seed=st.integers(0, 255))
    def begin(self, seed: int) -> None:
        """Accounts of its own."""
        self.example = Example(self.worlds.present(), f"h{next(self.numbers)}-", random.Random(seed))

    def teardown(self) -> None:
        """Compares all that can be read."""
        if hasattr(self, "example"):
            self.example.draw = random.Random(0)
            try:
                self.example.end()
            finally:
                self.example.leave()


def _as_rule(step: Rule) -> Callable[..., None]:
    def run(self: Any, seed: int) -> None:
        self.example.draw = random.Random(seed)
        step(self.example)

    run.__name__ = step.__name__
    return rule(seed=st.integers(0, 65_535))(run)


for each in WEIGHTS:
    if each not in (many_grants, restart, sweep):  # they take long: left to the campaign
        setattr(LedgerMachine, each.__name__, _as_rule(each))


@pytest.fixture
def worlds(postgres: Postgres) -> Iterator[Worlds]:
    """Two servers on a database whose clock stands still."""
    with ExitStack() as stack:
        yield Worlds(stack, postgres)


def test_the_ledger_answers_as_its_model(worlds: Worlds) -> None:
    LedgerMachine.worlds = worlds
    run_state_machine_as_test(LedgerMachine, settings=PROFILE)


def test_open_connections_see_the_clock_that_tests_put_in(postgres: Postgres) -> None:
    dsn = postgres.create_database()
    server = Server(dsn, sweeper=False)

    def time_of(number: int) -> int:
        entry = server.call("GrantCredits", {"request_id": f"g{number}", "account_id": "a", "amount": 1})[
            "entry"
        ]
        time: int = entry["create_time"]
        return time

    try:
        server.call("UpdateCatalog", {"request_id": "c", "catalog": quiet_catalog()})
        server.call("OpenAccount", {"request_id": "o", "account_id": "a"})
        before = [time_of(number) for number in range(10)]  # until what a connection sends is prepared
        on = World(dsn, sweepers=())
        on.clock.set(before[-1] + 1_000 * DAY)

        assert [time_of(number) for number in range(10, 13)] == [before[-1] + 1_000 * DAY] * 3
        on.close()
    finally:
        server.end(kill=True)
        postgres.drop_database(dsn)
