"""Bad catalogs: every mistake is named by its path, and the current catalog stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from creditledger.v1 import ledger_admin_pb2 as admin_pb
from creditledger.v1 import resources_pb2 as pb
from ledger_calls import Ledger, example_catalog, unique

MAX, MIN = 2**63 - 1, -(2**63)
TOO_LARGE = 10**15 + 1
PERIOD_NONE: Any = 0

Case = tuple[str, str, pb.Catalog]
"""A name, the path to be refused, and what is merged into a good catalog."""


def flat(amount: int) -> pb.Catalog:
    return pb.Catalog(operations=[pb.Operation(operation="x", flat=pb.FlatPrice(amount=amount))])


def metered(minimum: int = 0, metric: str = "m", amount: int = 1, per: int = 1, times: int = 1) -> pb.Catalog:
    rate = pb.MetricRate(metric=metric, amount=amount, per=per)
    price = pb.MeteredPrice(rates=[rate] * times, minimum=minimum)
    return pb.Catalog(operations=[pb.Operation(operation="x", metered=price)])


def limit(operation: str = "chat_refinement", period: Any = 1, number: int = 1, times: int = 1) -> pb.Catalog:
    one = pb.Limit(operation=operation, period=period, limit=number)
    return pb.Catalog(levels=[pb.Level(level="x", limits=[one] * times)])


def allowance(credits_: int = 1, period: Any = 1) -> pb.Catalog:
    level = pb.Level(level="x", allowance=pb.Allowance(credits=credits_, period=period))
    return pb.Catalog(levels=[level])


def package(currency: str = "EUR", amount: str = "1", credits_: int = 1, **fields: Any) -> pb.Catalog:
    price = pb.Price(currency_code=currency, amount=amount)
    return pb.Catalog(packages=[pb.CreditPackage(package_id="p", credits=credits_, price=price, **fields)])


def operation_cases() -> Iterator[Case]:
    for number in (-1, TOO_LARGE, MAX, MIN):
        yield f"price {number}", "operations.x.price.flat", flat(number)
        yield f"rate {number}", "operations.x.price.rates[0].amount", metered(amount=number)
        yield f"minimum {number}", "operations.x.price.minimum", metered(minimum=number)
    for number in (0, -1, TOO_LARGE, MIN):
        yield f"per {number}", "operations.x.price.rates[0].per", metered(per=number)
    for metric in ("", "M", "a-b", "x" * 65, "a\n", "é"):
        yield f"metric {metric[:5]!r}", "operations.x.price.rates[0].metric", metered(metric=metric)
    yield "metric twice", "operations.x.price.rates[1]", metered(times=2)
    yield "33 rates", "operations.x.price.rates", metered(times=33)
    yield "no price", "operations.x.price", pb.Catalog(operations=[pb.Operation(operation="x")])


def level_cases() -> Iterator[Case]:
    for number in (-2, MIN):
        yield f"limit {number}", "levels.x.limits[0].limit", limit(number=number)
    for period in (0, 5, -1, 2**31 - 1):
        yield f"period {period}", "levels.x.limits[0].period", limit(period=period)
        yield f"allowance period {period}", "levels.x.allowance.period", allowance(period=period)
    for operation in ("", "none", "CHAT_REFINEMENT", "chat_refinement\n"):
        yield f"limit of {operation!r}", "levels.x.limits[0].operation", limit(operation=operation)
    yield "limit twice", "levels.x.limits[1]", limit(times=2)
    for number in (0, -1, TOO_LARGE, MIN):
        yield f"allowance {number}", "levels.x.allowance.credits", allowance(number)


def package_cases() -> Iterator[Case]:
    for number in (0, -1, TOO_LARGE, MIN):
        yield f"credits {number}", "packages.p.credits", package(credits_=number)
    for amount in ("", "1,5", "-1", "1e3", "NaN", "1.", ".5", "9" * 19, "\uff11", "1\n", " 1"):
        yield f"amount {amount!r}", "packages.p.price.amount", package(amount=amount)
    for currency in ("", "eur", "EURO", "E1R", "EUR\n", "ÉUR"):
        yield f"currency {currency!r}", "packages.p.price.currency_code", package(currency=currency)
    yield "101 features", "packages.p.features", package(features=["f"] * 101)
    yield "1,025-byte feature", "packages.p.features[1]", package(features=["f", "x" * 1_025])


def name_cases() -> Iterator[Case]:
    for name, text in {
        "129 bytes": "x" * 129,
        "NUL": "\0",
        "newline": "a\nb",
        "escape": "\x1b",
        "C1": "\x85",
    }.items():
        yield f"package name {name}", "packages.p.display_name", package(display_name=text)
        level = pb.Catalog(levels=[pb.Level(level="x", display_name=text)])
        yield f"level name {name}", "levels.x.display_name", level
    for key, step in {
        "": '""', "A": "A", "a-b": "a-b", "1st": "1st", "_x": "_x", "a b": '"a b"', "a.b": '"a.b"', "a\n": '"a\\n"',
        "\u202e": '"\\u202e"', "x" * 65: "x" * 65, "x" * 60_000: '"' + "x" * 77,
    }.items():  # fmt: skip
        price = pb.FlatPrice(amount=1)
        operation = pb.Catalog(operations=[pb.Operation(operation=key, flat=price)])
        yield f"operation {step[:12]!a}", f"operations.{step}"[:92], operation
        yield f"level {step[:12]!a}", f"levels.{step}"[:92], pb.Catalog(levels=[pb.Level(level=key)])


CASES = [*operation_cases(), *level_cases(), *package_cases(), *name_cases()]


@pytest.mark.parametrize(
    ("field", "part"), [case[1:] for case in CASES], ids=[ascii(case[0]) for case in CASES]
)
@pytest.mark.usefixtures("untouched")
def test_a_mistake_is_named_by_its_path(ledger: Ledger, field: str, part: pb.Catalog) -> None:
    catalog = example_catalog()
    catalog.MergeFrom(part)

    failure = ledger.refusal(admin_pb.UpdateCatalogRequest(request_id=unique(), catalog=catalog))

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert failure.kinds == {"BadRequest"}
    assert any(found.startswith(f"catalog.{field}") for found in failure.fields), failure.fields


EMPTY: dict[str, tuple[admin_pb.UpdateCatalogRequest, str]] = {
    "no catalog": (admin_pb.UpdateCatalogRequest(request_id="r"), "catalog"),
    "empty": (admin_pb.UpdateCatalogRequest(request_id="r", catalog=pb.Catalog()), "catalog.levels"),
    "no default": (
        admin_pb.UpdateCatalogRequest(request_id="r", catalog=pb.Catalog(levels=[pb.Level(level="x")])),
        "catalog.default_level",
    ),
    "unknown default": (
        admin_pb.UpdateCatalogRequest(
            request_id="r", catalog=pb.Catalog(levels=[pb.Level(level="x")], default_level="y")
        ),
        "catalog.default_level",
    ),
    "101 levels": (
        admin_pb.UpdateCatalogRequest(
            request_id="r",
            catalog=pb.Catalog(levels=[pb.Level(level=f"x{n}") for n in range(101)], default_level="x1"),
        ),
        "catalog.levels",
    ),
    "1,001 operations": (
        admin_pb.UpdateCatalogRequest(
            request_id="r",
            catalog=pb.Catalog(
                operations=[
                    pb.Operation(operation=f"x{n}", flat=pb.FlatPrice(amount=1)) for n in range(1_001)
                ],
                levels=[pb.Level(level="x")],
                default_level="x",
            ),
        ),
        "catalog.operations",
    ),
}


@pytest.mark.parametrize(("request_", "field"), EMPTY.values(), ids=EMPTY.keys())
@pytest.mark.usefixtures("untouched")
def test_a_catalog_lacks_or_exceeds_something(
    ledger: Ledger, request_: admin_pb.UpdateCatalogRequest, field: str
) -> None:
    failure = ledger.refusal(request_)

    assert failure.word == "INVALID_ARGUMENT / FIELD_INVALID"
    assert field in failure.fields


def test_the_smallest_and_a_large_catalog_are_accepted_and_told_as_they_are_kept(ledger: Ledger) -> None:
    smallest = pb.Catalog(levels=[pb.Level(level="x")], default_level="x")
    large = example_catalog(**{f"operation_{number:03}": number for number in range(990)})
    for level in large.levels:
        for operation in sorted(large.operations, key=lambda operation: operation.operation):
            level.limits.add(operation=operation.operation, period=pb.PERIOD_LIFETIME, limit=MAX)

    for catalog in (smallest, large):
        answer = ledger.call(admin_pb.UpdateCatalogRequest(request_id=unique(), catalog=catalog)).catalog

        assert ledger.call(admin_pb.GetCatalogRequest()).catalog == answer
        answer.ClearField("version")
        answer.ClearField("create_time")
        expected = pb.Catalog()
        expected.CopyFrom(catalog)
        expected.operations.sort(key=lambda operation: operation.operation)
        assert answer == expected
