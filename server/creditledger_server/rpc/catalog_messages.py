"""The catalog between its message and its document; the document's parser holds all rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from creditledger.v1 import resources_pb2 as pb

from ..domain.book import CatalogVersion
from ..domain.catalog import Catalog, Level, MeteredPrice, Operation, Package
from ..domain.catalog_document import CatalogInvalid, parse_catalog
from ..domain.periods import Period
from ..domain.refusal import Reason, Refused
from .convert import timestamp

_PERIOD_WORDS = {int(period): period.name.lower() for period in Period}


def catalog_of(message: pb.Catalog) -> Catalog:
    """The catalog of a message. Raises Refused FIELD_INVALID with every mistake."""
    mistakes = [*_repeated("operations", (item.operation for item in message.operations))]
    mistakes += _repeated("levels", (item.level for item in message.levels))
    mistakes += _repeated("packages", (item.package_id for item in message.packages))
    try:
        catalog = parse_catalog(_document(message))
    except CatalogInvalid as error:
        mistakes += [
            (f"catalog.{mistake.path}".rstrip("."), mistake.description) for mistake in error.mistakes
        ]
        raise _invalid(mistakes) from error
    if mistakes:
        raise _invalid(mistakes)
    return catalog


def catalog_message(of: CatalogVersion) -> pb.Catalog:
    """A version of the catalog as a message."""
    catalog = of.catalog
    return pb.Catalog(
        version=of.version,
        operations=[_operation_message(item) for item in catalog.operations.values()],
        levels=[_level_message(item) for item in catalog.levels.values()],
        default_level=catalog.default_level,
        packages=[package_message(item) for item in catalog.packages.values()],
        create_time=timestamp(of.create_time),
    )


def _invalid(mistakes: list[tuple[str, str]]) -> Refused:
    return Refused(
        Reason.FIELD_INVALID, f"the catalog has {len(mistakes)} mistakes", violations=tuple(mistakes)
    )


def _document(message: pb.Catalog) -> dict[str, object]:
    return {
        "default_level": message.default_level,
        "operations": {item.operation: _operation_document(item) for item in message.operations},
        "levels": {item.level: _level_document(item) for item in message.levels},
        "packages": {item.package_id: _package_document(item) for item in message.packages},
    }


def _operation_document(message: pb.Operation) -> dict[str, object]:
    match message.WhichOneof("price"):
        case "flat":
            price: dict[str, object] = {"flat": message.flat.amount}
        case "metered":
            rates = [
                {"metric": rate.metric, "amount": rate.amount, "per": rate.per}
                for rate in message.metered.rates
            ]
            price = {"rates": rates, "minimum": message.metered.minimum}
        case _:
            return {"display_name": message.display_name}
    return {"display_name": message.display_name, "price": price}


def _level_document(message: pb.Level) -> dict[str, object]:
    document: dict[str, object] = {
        "display_name": message.display_name,
        "limits": [
            {"operation": item.operation, "period": _word(item.period), "limit": item.limit}
            for item in message.limits
        ],
    }
    if message.HasField("allowance"):
        document["allowance"] = {
            "credits": message.allowance.credits,
            "period": _word(message.allowance.period),
        }
    return document


def _package_document(message: pb.CreditPackage) -> dict[str, object]:
    price = {"currency_code": message.price.currency_code, "amount": message.price.amount}
    return {
        "display_name": message.display_name,
        "credits": message.credits,
        "price": price,
        "features": list(message.features),
    }


def _operation_message(of: Operation) -> pb.Operation:
    message = pb.Operation(operation=of.name, display_name=of.display_name)
    if isinstance(of.price, MeteredPrice):
        rates = [
            pb.MetricRate(metric=rate.metric, amount=rate.amount, per=rate.per) for rate in of.price.rates
        ]
        message.metered.CopyFrom(pb.MeteredPrice(rates=rates, minimum=of.price.minimum))
    else:
        message.flat.CopyFrom(pb.FlatPrice(amount=of.price.amount))
    return message


def _level_message(of: Level) -> pb.Level:
    limits = [
        pb.Limit(operation=limit.operation, period=int(limit.period), limit=limit.limit)  # type: ignore[arg-type]
        for limit in of.limits
    ]
    message = pb.Level(level=of.name, display_name=of.display_name, limits=limits)
    if of.allowance:
        period = int(of.allowance.period)
        message.allowance.CopyFrom(pb.Allowance(credits=of.allowance.credits, period=period))  # type: ignore[arg-type]
    return message


def package_message(of: Package) -> pb.CreditPackage:
    """A package as a message."""
    return pb.CreditPackage(
        package_id=of.package_id,
        display_name=of.display_name,
        credits=of.credits,
        price=pb.Price(currency_code=of.currency_code, amount=of.price),
        features=of.features,
    )


def _word(period: int) -> str:
    return _PERIOD_WORDS.get(period, str(period))


def _repeated(field: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """A document cannot name anything twice, a list can: tells what it names twice."""
    return [
        (f"catalog.{field}.{name}", "must not be named twice")
        for name, count in Counter(names).items()
        if count > 1
    ]
