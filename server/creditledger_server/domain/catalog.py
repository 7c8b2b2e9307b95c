"""The catalog: what can be charged, at which price, and what each level allows and brings.

Values only: ``catalog_document.parse_catalog`` makes them and holds every rule about them, ``pricing``
computes with them. A catalog knows neither its version nor its time, so that two with the same content are
equal. Amounts are in the ledger's minor unit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from .periods import Period

UNLIMITED: Final = -1
"""The value of ``Limit.limit`` that allows any number of uses and still counts them."""


@dataclass(frozen=True, slots=True)
class FlatPrice:
    """A fixed price per use: 0 (free) to MAX_AMOUNT."""

    amount: int


@dataclass(frozen=True, slots=True)
class MetricRate:
    """Every ``per`` units of the metric (1 to MAX_AMOUNT) cost ``amount`` (0 to MAX_AMOUNT)."""

    metric: str
    amount: int
    per: int


@dataclass(frozen=True, slots=True)
class MeteredPrice:
    """A price computed from metrics, each in one rate at most, and the least that one use costs."""

    rates: tuple[MetricRate, ...]
    minimum: int


Price = FlatPrice | MeteredPrice


@dataclass(frozen=True, slots=True)
class Operation:
    """Something an account can be charged for."""

    name: str
    display_name: str
    price: Price


@dataclass(frozen=True, slots=True)
class Limit:
    """How many uses of an operation a level allows in a period: 0 forbids it, UNLIMITED does not limit it."""

    operation: str
    period: Period
    limit: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """The credits (1 to MAX_AMOUNT) that a level brings at the start of every period, gone at its end."""

    credits: int
    period: Period


@dataclass(frozen=True, slots=True)
class Level:
    """A plan that an account is on. Limits are at most one per operation and period."""

    name: str
    display_name: str
    allowance: Allowance | None
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Package:
    """Credits for sale (1 to MAX_AMOUNT). The price is a decimal number as text, never computed with."""

    package_id: str
    display_name: str
    credits: int
    currency_code: str
    price: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that prices and limits depend on, each kind by name.

    What every request asks is computed once, at construction; so the mappings must not change afterwards.
    """

    operations: Mapping[str, Operation]
    levels: Mapping[str, Level]
    default_level: str
    packages: Mapping[str, Package]
    _limits: dict[str, dict[str, tuple[Limit, ...]]] = field(init=False, repr=False, compare=False)
    _counted: dict[str, tuple[Period, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = {name: _by_operation(level.limits) for name, level in self.levels.items()}
        every_limit = (limit for level in self.levels.values() for limit in level.limits)
        counted = {
            operation: tuple(sorted({limit.period for limit in group}))
            for operation, group in _by_operation(every_limit).items()
        }
        # The way that frozen dataclasses leave open for derived fields.
        object.__setattr__(self, "_limits", limits)
        object.__setattr__(self, "_counted", counted)

    def limits_of(self, level: str, operation: str) -> tuple[Limit, ...]:
        """The limits that a level sets for an operation, by period; empty where it sets none.

        Raises KeyError for a level that the catalog lacks: no limits would mean unlimited, which an account
        whose level a newer catalog dropped must not become by accident.
        """
        return self._limits[level].get(operation, ())

    def counted_periods(self, operation: str) -> tuple[Period, ...]:
        """The periods over which uses of an operation count, ascending: all for which any level limits it.

        Those of all levels, not only of the account's own, so that a change of level finds them counted.
        """
        return self._counted.get(operation, ())


def _by_operation(limits: Iterable[Limit]) -> dict[str, tuple[Limit, ...]]:
    groups: dict[str, list[Limit]] = {}
    for limit in limits:
        groups.setdefault(limit.operation, []).append(limit)
    return {operation: tuple(sorted(group, key=attrgetter("period"))) for operation, group in groups.items()}
