"""What a catalog answers on every request."""

import dataclasses

import pytest
from creditledger_server.domain.catalog import (
    UNLIMITED,
    Catalog,
    FlatPrice,
    Level,
    Limit,
    Operation,
)
from creditledger_server.domain.periods import Period

PER_MONTH = Limit("scripts", Period.MONTH, 3)
PER_DAY = Limit("scripts", Period.DAY, 1)
UNLIMITED_PER_WEEK = Limit("scripts", Period.WEEK, UNLIMITED)
VOICES = Limit("voices", Period.LIFETIME, 0)


def catalog_of(**limits_by_level: tuple[Limit, ...]) -> Catalog:
    names = ("scripts", "voices", "chats")
    return Catalog(
        operations={name: Operation(name, "", FlatPrice(1)) for name in names},
        levels={name: Level(name, "", None, limits) for name, limits in limits_by_level.items()},
        default_level="free",
        packages={},
    )


def test_limits_are_found_by_level_and_operation_in_order_of_period() -> None:
    catalog = catalog_of(free=(PER_MONTH, VOICES, PER_DAY), pro=(UNLIMITED_PER_WEEK,))
    assert catalog.limits_of("free", "scripts") == (PER_DAY, PER_MONTH)
    assert catalog.limits_of("free", "voices") == (VOICES,)
    assert catalog.limits_of("pro", "scripts") == (UNLIMITED_PER_WEEK,)


def test_an_operation_that_a_level_does_not_limit_has_no_limits() -> None:
    catalog = catalog_of(free=(PER_MONTH,), pro=())
    assert catalog.limits_of("free", "chats") == ()
    assert catalog.limits_of("pro", "scripts") == ()


def test_a_level_that_the_catalog_lacks_is_an_error_and_not_unlimited() -> None:
    with pytest.raises(KeyError):
        catalog_of(free=()).limits_of("dropped", "scripts")


def test_uses_are_counted_for_the_periods_of_all_levels_each_once() -> None:
    catalog = catalog_of(free=(PER_MONTH, VOICES), pro=(UNLIMITED_PER_WEEK,), team=(PER_MONTH, PER_DAY))
    assert catalog.counted_periods("scripts") == (Period.DAY, Period.WEEK, Period.MONTH)
    assert catalog.counted_periods("voices") == (Period.LIFETIME,)


def test_uses_of_an_operation_that_no_level_limits_are_not_counted() -> None:
    assert catalog_of(free=(PER_MONTH,)).counted_periods("chats") == ()


def test_catalogs_with_the_same_content_are_equal() -> None:
    assert catalog_of(free=(PER_MONTH,), pro=()) == catalog_of(pro=(), free=(PER_MONTH,))
    assert catalog_of(free=(PER_MONTH,)) != catalog_of(free=(PER_DAY,))


def test_a_catalog_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        catalog_of(free=()).default_level = "pro"  # type: ignore[misc]
