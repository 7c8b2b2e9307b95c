"""An example: a few accounts on a real ledger and in the model, asked the same, call by call."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

from ledger_model import Ledger
from model_account import Account
from model_catalog import DAY, HOUR, SECOND, Plain, from_datetime, period_end, period_start, to_datetime
from model_catalogs import quiet_catalog, some_catalog
from model_compare import differences
from model_world import World

NAMES = "abcde"


class Mismatch(AssertionError):
    """The ledger answered other than the model."""


def first_moment(after: int) -> int:
    """The next year that begins on a Monday and is no leap year, so that all examples see the same calendar."""
    year = to_datetime(after).year + 1
    while True:
        start = to_datetime(after).replace(year, 1, 1, 0, 0, 0, 0)
        if start.weekday() == 0 and (year % 4 != 0 or year % 100 == 0 != year % 400):
            return from_datetime(start)
        year += 1


class Example:
    """Calls on accounts of its own. ``prefix`` begins their names and is used once on a ledger."""

    def __init__(self, world: World, prefix: str, draw: random.Random) -> None:
        self.world = world
        self.prefix = prefix
        self.model = Ledger()
        self.called: Counter[str] = Counter()
        self.trace: list[str] = []
        self.draw = draw
        self.place = 0  # of the server that is asked next
        self.numbers = 0
        self.accepted: list[tuple[str, Plain]] = []
        self._begin()

    def _begin(self) -> None:
        """Takes over the catalogs, and goes to a time that no earlier example has seen."""
        latest = self.world.call(0, "GetServerInfo", {}).get("catalog_version", 0)
        for version in range(1, latest + 1):
            catalog = self.world.catalogs.get(version)
            if catalog is None:
                catalog = self.world.call(0, "GetCatalog", {"version": version})["catalog"]
                self.world.catalogs[version] = catalog
            self.model.catalogs.add(catalog["create_time"], {"levels": [], "packages": [], **catalog})
        self.now = first_moment(self.world.clock.told()) + 10 * DAY + 9 * HOUR
        self.world.clock.set(self.now)
        self.new_catalog()

    def end(self) -> None:
        """Compares all that can be read."""
        for name in sorted(self.model.accounts):
            self.read_all(name)

    def leave(self) -> None:
        """Leaves the ledger without allowances: they would recur for ever, which the sweeper would have to write."""
        self.go(self.now + 1)
        request = {"request_id": self.new_id(), "catalog": quiet_catalog()}
        answer = self.world.call(0, "UpdateCatalog", request)
        self.world.catalogs[answer["catalog"]["version"]] = answer["catalog"]

    # Calls

    def ask(self, method: str, request: Plain, page_size: int = 0) -> Plain:
        """Asks both; returns the answer or raises Mismatch."""
        self.called[method] += 1
        self.place += self.draw.random() < 0.4
        expected = self.model.call(method, request, self.now)
        got = self.world.call(self.place, method, request, page_size)
        self.trace.append(f"{to_datetime(self.now).isoformat()} {method} {request} -> {got}")
        if found := differences(expected, got):
            lines = [f"{method} {request} at {to_datetime(self.now).isoformat()}:", *found]
            raise Mismatch("\n  ".join(lines))
        if "error" not in got and "request_id" in request:
            self.accepted.append((method, request))
        return got

    def new_id(self) -> str:
        """A request id that was not used before."""
        self.numbers += 1
        return f"{self.prefix}q{self.numbers}"

    def mutate(self, method: str, **fields: Any) -> Plain:
        """Asks for a mutation under a new id. What is None is left out."""
        given = {name: value for name, value in fields.items() if value is not None}
        return self.ask(method, {"request_id": self.new_id(), **given})

    def read_all(self, account_id: str) -> None:
        """Compares an account as a whole."""
        of: Plain = {"account_id": account_id}
        for method in ("GetBalance", "GetAccount", "VerifyAccount"):
            self.ask(method, of)
        for method in ("ListEntries", "ListGrants", "ListReservations"):
            self.ask(method, of, page_size=self.draw.choice((0, 0, 7, 1_000)))
        self.ask("SummarizeUsage", {**of, "bucket": "DAY"})
        account = self.model.accounts[account_id]
        for revision in sorted({1, account.revision, self.draw.randint(1, account.revision)}):
            self.ask("GetBalance", {**of, "at_revision": revision})
            self.ask("GetBalance", {**of, "at_time": account.snapshots[revision - 1].time})

    def note(self, case: str) -> None:
        """Counts an interesting case."""
        self.model.notes[case] += 1

    # Choices

    def chance(self, probability: float) -> bool:
        """Whether something happens."""
        return self.draw.random() < probability

    def name(self) -> str:
        """Any account, open or not."""
        return self.prefix + self.draw.choice(NAMES)

    def account(self) -> Account:
        """An open account; opens one if there is none."""
        mine = sorted(self.model.accounts)
        if not mine:
            self.open(self.prefix + "a")
            mine = sorted(self.model.accounts)
        found = self.model.accounts[self.draw.choice(mine)]
        found.settle(self.model.catalogs, self.now, self.model.notes)
        return found

    def open(self, name: str) -> Plain:
        """Opens an account, at a level that there is."""
        level = self.draw.choice((None, *sorted(self.model.catalogs.versions[-1].levels)))
        return self.mutate("OpenAccount", account_id=name, level=level)

    # Time

    def go(self, time: int) -> None:
        """It is ``time`` from now on, unless that is past."""
        if time > self.now:
            self.now = time
            self.world.clock.set(time)

    def fall_back(self, span: int) -> None:
        """The ledger's clock is set back, after all that is due has been written, or who wrote what would be open."""
        for name in sorted(self.model.accounts):
            self.ask("GetBalance", {"account_id": name})
        self.now = max(self.now - span, self.model.catalogs.versions[-1].create_time)
        self.world.clock.set(self.now)
        self.note("clock set back")

    def instants(self) -> list[int]:
        """Instants to come at which something may fall due, and the next starts of periods."""
        periods = (period_end(each, self.now) for each in ("DAY", "WEEK", "MONTH"))
        found = {time for time in periods if time is not None}
        for account in self.model.accounts.values():
            found.update(time for time in account.instants() if time > self.now)
        return sorted(found)

    def coming(self) -> int:
        """An instant to come, near ones more often."""
        if self.chance(0.3):
            return self.now + self.draw.choice((1, SECOND, 90 * SECOND, HOUR, 30 * HOUR))
        times = self.instants()
        return times[min(self.draw.randrange(len(times)), self.draw.randrange(len(times)))]

    def past(self, account: Account) -> int:
        """A time since the account was opened, often one at which something happened."""
        if self.chance(0.7):
            snapshot = self.draw.choice(account.snapshots)
            return max(0, min(account.now(self.now), snapshot.time + self.draw.choice((-1, 0, 0, 1))))
        start = period_start("DAY", account.create_time)
        return self.draw.randint(start, max(start, self.now))

    def new_catalog(self) -> None:
        """Another catalog, at an instant of its own.

        At one and the same with another one their order would be open. At an instant at which something falls due
        a sweeper may have written that already, as the earlier catalog has it.
        """
        instants = self.instants()
        self.go(next(time for time in itertools.count(self.now + 1) if time not in instants))
        self.mutate("UpdateCatalog", catalog=some_catalog(self.draw))
        answer = self.model.catalogs.versions[-1].plain()
        self.world.catalogs[answer["version"]] = answer
        self.go(self.now + 1)
