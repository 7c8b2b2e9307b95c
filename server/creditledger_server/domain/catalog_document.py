"""The catalog as a document: what a TOML file holds, the database stores, and UpdateCatalog is turned into.

A document is tables, lists, text and whole numbers, as ``tomllib`` and ``json`` read them;
``catalog.example.toml`` shows every part. It is validated whole: it becomes a Catalog, or all its mistakes
are named, each with its path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from .catalog import (
    UNLIMITED,
    Allowance,
    Catalog,
    FlatPrice,
    Level,
    Limit,
    MeteredPrice,
    MetricRate,
    Operation,
    Package,
    Price,
)
from .names import MAX_AMOUNT, NAME_PATTERN
from .periods import Period

# How large a document may grow.
MAX_OPERATIONS: Final = 1_000
MAX_LEVELS: Final = 100
MAX_PACKAGES: Final = 1_000
MAX_RATES: Final = 32
"""As many as one usage can report metrics."""
MAX_LIMITS: Final = MAX_OPERATIONS * len(Period)
"""Of one level: one per operation and period."""
MAX_LIMIT: Final = 2**63 - 1
"""The largest number of uses that a limit can name."""
MAX_DISPLAY_NAME_BYTES: Final = 128
MAX_FEATURES: Final = 100
MAX_FEATURE_BYTES: Final = 1_024

_PERIODS: Final = {period.name.lower(): period for period in Period}
_NAME_RULE: Final = "must match [a-z][a-z0-9_]{0,63}"
_CURRENCY: Final = re.compile(r"\A[A-Z]{3}\Z")
_CURRENCY_RULE: Final = "must be three capital letters, like EUR"
_DECIMAL: Final = re.compile(r"\A[0-9]{1,18}(\.[0-9]{1,18})?\Z")
_DECIMAL_RULE: Final = "must be a decimal number, like 9.90"
# Postgres cannot store NUL, a lone surrogate has no UTF-8 form, and no control character is text to show.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BARE_KEY: Final = re.compile(r"\A[A-Za-z0-9_-]+\Z")
_MOST_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with a document.

    ``path`` tells where, like ``levels.free.limits[0].period``; empty: the document itself. ``description``
    is the rule that it breaks, and makes a sentence after the path.
    """

    path: str
    description: str


class CatalogInvalid(ValueError):
    """A document is no catalog. ``mistakes`` holds everything that is wrong with it, at least one."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes

    def __str__(self) -> str:
        lines = [f"{mistake.path or 'the document'} {mistake.description}" for mistake in self.mistakes]
        return "the catalog is invalid:\n  " + "\n  ".join(lines)


def parse_catalog(document: Mapping[str, object]) -> Catalog:
    """Makes a catalog of a document; raises CatalogInvalid, with all of its mistakes, if it has any.

    The catalog is canonical: operations, levels, packages, limits and rates are in order of name, whatever
    their order in the document, so that documents that mean the same make equal catalogs. Features keep their
    order.
    """
    mistakes: list[Mistake] = []
    root = _Node(document, "", mistakes).table("default_level", "operations", "levels", "packages")
    operations, levels = root.field("operations", {}), root.field("levels")
    packages = root.field("packages", {})
    catalog = Catalog(
        operations={name: _operation(name, node) for name, node in operations.named(0, MAX_OPERATIONS)},
        levels={name: _level(name, node, operations) for name, node in levels.named(1, MAX_LEVELS)},
        default_level=root.field("default_level").key_of(levels, "level"),
        packages={name: _package(name, node) for name, node in packages.named(0, MAX_PACKAGES)},
    )
    if mistakes:
        raise CatalogInvalid(tuple(mistakes))
    return catalog


def catalog_document(catalog: Catalog) -> dict[str, object]:
    """The document of a catalog: dicts, lists, str and int only, to be written as JSON or TOML.

    ``parse_catalog`` makes the same catalog of it again. Within an item, what is optional and empty is left
    out.
    """
    return {
        "default_level": catalog.default_level,
        "operations": {name: _operation_document(item) for name, item in catalog.operations.items()},
        "levels": {name: _level_document(item) for name, item in catalog.levels.items()},
        "packages": {name: _package_document(item) for name, item in catalog.packages.items()},
    }


def _operation(name: str, node: _Node) -> Operation:
    table = node.table("display_name", "price")
    return Operation(name, _display_name(table), _price(table.field("price")))


def _price(node: _Node) -> Price:
    table = node.table("flat", "rates", "minimum")
    flat, rates, minimum = table.optional("flat"), table.optional("rates"), table.optional("minimum")
    if isinstance(node.value, Mapping) and (flat is None) == (rates is None):
        node.refuse("must hold either flat or rates")
    if flat is not None and rates is None and minimum is not None:
        minimum.refuse("is only for a price with rates")
    # Each part is read, whatever the price turns out to be, for the sake of its mistakes.
    amount = flat.integer(0, MAX_AMOUNT) if flat is not None else 0
    least = minimum.integer(0, MAX_AMOUNT) if minimum is not None else 0
    return FlatPrice(amount) if rates is None else MeteredPrice(_rates(rates), least)


def _rates(node: _Node) -> tuple[MetricRate, ...]:
    rates = [_rate(item) for item in node.distinct_items(1, MAX_RATES, "metric")]
    return tuple(sorted(rates, key=attrgetter("metric")))


def _rate(node: _Node) -> MetricRate:
    table = node.table("metric", "amount", "per")
    return MetricRate(
        metric=table.field("metric").matching(NAME_PATTERN, _NAME_RULE),
        amount=table.field("amount").integer(0, MAX_AMOUNT),
        per=table.field("per").integer(1, MAX_AMOUNT),
    )


def _level(name: str, node: _Node, operations: _Node) -> Level:
    table = node.table("display_name", "allowance", "limits")
    allowance = table.optional("allowance")
    items = table.field("limits", []).distinct_items(0, MAX_LIMITS, "operation", "period")
    limits = [_limit(item, operations) for item in items]
    return Level(
        name,
        _display_name(table),
        allowance=None if allowance is None else _allowance(allowance),
        limits=tuple(sorted(limits, key=attrgetter("operation", "period"))),
    )


def _allowance(node: _Node) -> Allowance:
    table = node.table("credits", "period")
    return Allowance(table.field("credits").integer(1, MAX_AMOUNT), table.field("period").period())


def _limit(node: _Node, operations: _Node) -> Limit:
    table = node.table("operation", "period", "limit")
    return Limit(
        operation=table.field("operation").key_of(operations, "operation"),
        period=table.field("period").period(),
        limit=table.field("limit").integer(UNLIMITED, MAX_LIMIT),
    )


def _package(name: str, node: _Node) -> Package:
    table = node.table("display_name", "credits", "price", "features")
    price = table.field("price").table("currency_code", "amount")
    features = table.field("features", []).items(0, MAX_FEATURES)
    return Package(
        name,
        _display_name(table),
        credits=table.field("credits").integer(1, MAX_AMOUNT),
        currency_code=price.field("currency_code").matching(_CURRENCY, _CURRENCY_RULE),
        price=price.field("amount").matching(_DECIMAL, _DECIMAL_RULE),
        features=tuple(feature.text(MAX_FEATURE_BYTES) for feature in features),
    )


def _display_name(table: _Node) -> str:
    return table.field("display_name", "").text(MAX_DISPLAY_NAME_BYTES)


def _operation_document(operation: Operation) -> dict[str, object]:
    price = operation.price
    return _present(
        display_name=operation.display_name or None,
        price={"flat": price.amount} if isinstance(price, FlatPrice) else _metered_document(price),
    )


def _metered_document(price: MeteredPrice) -> dict[str, object]:
    rates = [{"metric": rate.metric, "amount": rate.amount, "per": rate.per} for rate in price.rates]
    return _present(rates=rates, minimum=price.minimum or None)


def _level_document(level: Level) -> dict[str, object]:
    allowance = level.allowance
    return _present(
        display_name=level.display_name or None,
        allowance=allowance and {"credits": allowance.credits, "period": _word(allowance.period)},
        limits=[_limit_document(limit) for limit in level.limits] or None,
    )


def _limit_document(limit: Limit) -> dict[str, object]:
    return {"operation": limit.operation, "period": _word(limit.period), "limit": limit.limit}


def _package_document(package: Package) -> dict[str, object]:
    return _present(
        display_name=package.display_name or None,
        credits=package.credits,
        price={"currency_code": package.currency_code, "amount": package.price},
        features=list(package.features) or None,
    )


def _present(**fields: object) -> dict[str, object]:
    return {key: value for key, value in fields.items() if value is not None}


def _word(period: Period) -> str:
    return period.name.lower()


_ABSENT: Final = object()
# What stands for a value that has its mistake already, or whose parent does: nothing more is said about it.
_REFUSED: Final = object()


@dataclass(frozen=True, slots=True)
class _Node:
    """A value of the document, its path, and the list of mistakes that all nodes of the document share.

    Reading never fails. What is wrong is noted and something of the right type returned, so that every rule
    gets its say; it is never used, because a document with mistakes becomes no catalog.
    """

    value: object
    path: str
    mistakes: list[Mistake]

    def refuse(self, description: str) -> None:
        self.mistakes.append(Mistake(self.path, description))

    def table(self, *keys: str) -> _Node:
        """This node, a table that may hold these keys and no others."""
        if not isinstance(self.value, Mapping):
            self._refuse_type("a table")
            return self
        for key in self.value:
            if key not in keys:
                self._child(key).refuse(f"is not known here; known are {', '.join(keys)}")
        return self

    def field(self, key: str, default: object = _ABSENT) -> _Node:
        """The value of a key of this table; required if it has no default."""
        return self._child(key, self.value.get(key, default) if isinstance(self.value, Mapping) else _REFUSED)

    def optional(self, key: str) -> _Node | None:
        return self.field(key) if isinstance(self.value, Mapping) and key in self.value else None

    def named(self, least: int, most: int) -> list[tuple[str, _Node]]:
        """What a table holds by name, in order of name."""
        if not isinstance(self.value, Mapping):
            self._refuse_type("a table")
            return []
        self._check_size(len(self.value), least, most)
        for key in self.value:
            if not (isinstance(key, str) and NAME_PATTERN.match(key)):
                self._child(key).refuse(_NAME_RULE)
        names = sorted(key for key in self.value if isinstance(key, str))
        return [(name, self._child(name, self.value[name])) for name in names]

    def key_of(self, table: _Node, kind: str) -> str:
        """A text that is a key of another table; if that is no table, the mistake is there and not here."""
        name = self._text()
        if name is not None and isinstance(table.value, Mapping) and name not in table.value:
            self.refuse(f"is no {kind} of this catalog")
        return name or ""

    def items(self, least: int, most: int) -> list[_Node]:
        if not isinstance(self.value, list | tuple):
            self._refuse_type("a list")
            return []
        self._check_size(len(self.value), least, most)
        return [_Node(value, f"{self.path}[{i}]", self.mistakes) for i, value in enumerate(self.value)]

    def distinct_items(self, least: int, most: int, *keys: str) -> list[_Node]:
        """The tables of a list, no two of which have the same texts at these keys."""
        items = self.items(least, most)
        seen: set[tuple[object, ...]] = set()
        for item in items:
            table = item.value if isinstance(item.value, Mapping) else {}
            identity = tuple(table.get(key) for key in keys)
            if not all(isinstance(part, str) for part in identity):
                continue  # Refused for its type when it is read.
            if identity in seen:
                item.refuse(f"repeats the {' and '.join(keys)} of an earlier one")
            seen.add(identity)
        return items

    def integer(self, least: int, most: int) -> int:
        # To Python a bool is an int.
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self._refuse_type("a whole number")
            return least
        if not least <= self.value <= most:
            self.refuse(f"must be {least:,} to {most:,}")
        return self.value

    def text(self, most_bytes: int) -> str:
        """A text to show to people."""
        text = self._text() or ""
        if _UNPRINTABLE.search(text):
            self.refuse("must not hold control characters")
        elif len(text.encode()) > most_bytes:
            self.refuse(f"must be at most {most_bytes:,} bytes of UTF-8")
        return text

    def matching(self, pattern: re.Pattern[str], rule: str) -> str:
        text = self._text()
        if text is not None and not pattern.match(text):
            self.refuse(rule)
        return text or ""

    def period(self) -> Period:
        word = self._text()
        if word is not None and word not in _PERIODS:
            self.refuse(f"must be one of {', '.join(_PERIODS)}")
        return _PERIODS.get(word or "", Period.LIFETIME)

    def _text(self) -> str | None:
        if isinstance(self.value, str):
            return self.value
        self._refuse_type("text")
        return None

    def _check_size(self, size: int, least: int, most: int) -> None:
        if not least <= size <= most:
            self.refuse(f"must hold {least:,} to {most:,} entries, not {size:,}")

    def _refuse_type(self, wanted: str) -> None:
        if self.value is _ABSENT:
            self.refuse("is required")
        elif self.value is not _REFUSED:
            self.refuse(f"must be {wanted}, not {_type_in_words(self.value)}")

    def _child(self, key: object, value: object = _REFUSED) -> _Node:
        step = _shown(key)
        return _Node(value, f"{self.path}.{step}" if self.path else step, self.mistakes)


def _shown(key: object) -> str:
    """A key as a step of a path: quoted where TOML would want it, never long, always printable ASCII."""
    if not isinstance(key, str):
        return "?"
    short = key if len(key) <= _MOST_SHOWN else key[:_MOST_SHOWN] + "..."
    return short if _BARE_KEY.match(short) else json.dumps(short)


_TYPES: Final = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number with a fraction"),
    (str, "text"),
    (Mapping, "a table"),
    (list | tuple, "a list"),
    (type(None), "null"),
)


def _type_in_words(value: object) -> str:
    return next((words for kind, words in _TYPES if isinstance(value, kind)), "something else")
