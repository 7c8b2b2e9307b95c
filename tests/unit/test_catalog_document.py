"""Documents that become catalogs, documents that do not, and what is said about those."""

import json
import pickle
import tomllib
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import pytest
from creditledger_server.domain.catalog import (
    Allowance,
    Catalog,
    FlatPrice,
    Level,
    Limit,
    MeteredPrice,
    MetricRate,
    Operation,
    Package,
)
from creditledger_server.domain.catalog_document import CatalogInvalid, catalog_document, parse_catalog
from creditledger_server.domain.names import MAX_AMOUNT
from creditledger_server.domain.periods import Period
from hypothesis import given
from hypothesis import strategies as st

Document = dict[str, Any]

FULL: Document = tomllib.loads("""
default_level = "free"
[operations.scripts]
display_name = "Scripts"
price = { flat = 1 }
[operations.summaries]
price = { rates = [ { metric = "tokens", amount = 1, per = 1000 },
                    { metric = "pages", amount = 0, per = 1 } ], minimum = 1 }
[levels.free]
display_name = "Free"
limits = [ { operation = "summaries", period = "lifetime", limit = -1 },
           { operation = "scripts", period = "month", limit = 3 },
           { operation = "scripts", period = "day", limit = 0 } ]
allowance = { credits = 10, period = "week" }
[levels.pro]
[packages.starter]
display_name = "Starter"
credits = 100
price = { currency_code = "EUR", amount = "9.90" }
features = ["b", "a"]
""")

PARSED = Catalog(
    operations={
        "scripts": Operation("scripts", "Scripts", FlatPrice(1)),
        "summaries": Operation(
            "summaries",
            "",
            MeteredPrice((MetricRate("pages", 0, 1), MetricRate("tokens", 1, 1000)), minimum=1),
        ),
    },
    levels={
        "free": Level(
            "free",
            "Free",
            Allowance(10, Period.WEEK),
            (
                Limit("scripts", Period.DAY, 0),
                Limit("scripts", Period.MONTH, 3),
                Limit("summaries", Period.LIFETIME, -1),
            ),
        ),
        "pro": Level("pro", "", None, ()),
    },
    default_level="free",
    packages={"starter": Package("starter", "Starter", 100, "EUR", "9.90", ("b", "a"))},
)

RATE: Document = {"metric": "tokens", "amount": 1, "per": 1000}
SMALLEST: Document = {"default_level": "free", "levels": {"free": {}}}


def mistakes_in(document: object) -> dict[str, str]:
    """Path and description of every mistake; a path that is blamed twice fails."""
    with pytest.raises(CatalogInvalid) as caught:
        parse_catalog(document)  # type: ignore[arg-type]
    mistakes = caught.value.mistakes
    by_path = {mistake.path: mistake.description for mistake in mistakes}
    assert len(by_path) == len(mistakes), mistakes
    return by_path


def changed(path: str, value: object, document: Document = FULL) -> Document:
    """A copy of a document with one value set; list items are named by their index."""
    copy: Any = deepcopy(document)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    node = copy
    for step in parents:
        node = node[step]
    node[last] = value
    return copy  # type: ignore[no-any-return]


def without(path: str) -> Document:
    copy: Any = deepcopy(FULL)
    *parents, last = path.split("/")
    node = copy
    for step in parents:
        node = node[step]
    del node[last]
    return copy  # type: ignore[no-any-return]


# --- What parses ---


def test_a_full_document_becomes_the_catalog_that_it_describes() -> None:
    assert parse_catalog(FULL) == PARSED


def test_the_smallest_document_is_one_level() -> None:
    assert parse_catalog(SMALLEST) == Catalog({}, {"free": Level("free", "", None, ())}, "free", {})


def test_the_largest_allowed_values_are_allowed() -> None:
    document = changed("operations/scripts/price/flat", MAX_AMOUNT)
    document = changed("operations/scripts/display_name", "é" * 64, document)
    document = changed("operations/summaries/price/rates/0/per", MAX_AMOUNT, document)
    document = changed("levels/free/limits/0/limit", 2**63 - 1, document)
    document = changed("packages/starter/credits", MAX_AMOUNT, document)
    assert parse_catalog(document).packages["starter"].credits == MAX_AMOUNT


def test_as_many_operations_levels_and_packages_as_allowed() -> None:
    document = {
        "default_level": "l0",
        "operations": {f"o{i}": {"price": {"flat": 0}} for i in range(1_000)},
        "levels": {f"l{i}": {} for i in range(100)},
        "packages": {f"p{i}": FULL["packages"]["starter"] for i in range(1_000)},
    }
    catalog = parse_catalog(document)
    assert (len(catalog.operations), len(catalog.levels), len(catalog.packages)) == (1_000, 100, 1_000)


def test_any_mapping_and_tuples_will_do() -> None:
    limits = tuple(MappingProxyType(limit) for limit in FULL["levels"]["free"]["limits"])
    assert parse_catalog(MappingProxyType(changed("levels/free/limits", limits))) == PARSED


@pytest.mark.parametrize("amount", ["0", "9.90", "10", "0.000001", "123456789012345678"])
def test_a_decimal_price_is_kept_as_written(amount: str) -> None:
    catalog = parse_catalog(changed("packages/starter/price/amount", amount))
    assert catalog.packages["starter"].price == amount


# --- The canonical document ---


def test_the_order_of_what_has_no_order_does_not_matter() -> None:
    reversed_limits = changed("levels/free/limits", FULL["levels"]["free"]["limits"][::-1])
    shuffled = {key: reversed_limits[key] for key in reversed(reversed_limits)}
    shuffled["levels"] = dict(reversed(shuffled["levels"].items()))
    assert parse_catalog(shuffled) == PARSED
    assert json.dumps(catalog_document(parse_catalog(shuffled))) == json.dumps(catalog_document(PARSED))


def test_saying_a_default_is_the_same_as_leaving_it_out() -> None:
    spelled_out = {
        "default_level": "free",
        "operations": {"scripts": {"display_name": "", "price": {"rates": [RATE], "minimum": 0}}},
        "levels": {"free": {"display_name": "", "limits": []}},
        "packages": {},
    }
    terse = {
        "default_level": "free",
        "operations": {"scripts": {"price": {"rates": [RATE]}}},
        "levels": {"free": {}},
    }
    assert parse_catalog(spelled_out) == parse_catalog(terse)
    assert catalog_document(parse_catalog(spelled_out)) == {**terse, "packages": {}}


def test_the_document_of_a_catalog_keeps_zeros_that_mean_something() -> None:
    document: Any = catalog_document(parse_catalog(changed("operations/scripts/price/flat", 0)))
    assert document["operations"]["scripts"]["price"] == {"flat": 0}
    assert document["levels"]["free"]["limits"][0] == {"operation": "scripts", "period": "day", "limit": 0}


names = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
amounts = st.integers(0, MAX_AMOUNT)
some_credits = st.integers(1, MAX_AMOUNT)
periods = st.sampled_from(Period)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=32)


@st.composite
def metered_prices(draw: st.DrawFn) -> MeteredPrice:
    metrics = sorted(draw(st.sets(names, min_size=1, max_size=4)))
    return MeteredPrice(
        tuple(MetricRate(metric, draw(amounts), draw(some_credits)) for metric in metrics), draw(amounts)
    )


@st.composite
def levels_of(draw: st.DrawFn, name: str, operations: list[str]) -> Level:
    limited = [(operation, period) for operation in operations for period in Period]
    keys = sorted(draw(st.sets(st.sampled_from(limited), max_size=6))) if limited else []
    limits = tuple(Limit(operation, period, draw(st.integers(-1, 2**63 - 1))) for operation, period in keys)
    allowance = draw(st.none() | st.builds(Allowance, some_credits, periods))
    return Level(name, draw(texts), allowance, limits)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    operations = sorted(draw(st.sets(names, max_size=5)))
    levels = sorted(draw(st.sets(names, min_size=1, max_size=4)))
    packages = sorted(draw(st.sets(names, max_size=3)))
    prices = st.builds(FlatPrice, amounts) | metered_prices()
    currencies = st.from_regex(r"[A-Z]{3}", fullmatch=True)
    decimals = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,4})?", fullmatch=True)
    features = st.lists(texts, max_size=3).map(tuple)
    return Catalog(
        {name: Operation(name, draw(texts), draw(prices)) for name in operations},
        {name: draw(levels_of(name, operations)) for name in levels},
        draw(st.sampled_from(levels)),
        {
            name: Package(
                name, draw(texts), draw(some_credits), draw(currencies), draw(decimals), draw(features)
            )
            for name in packages
        },
    )


@given(catalogs())
def test_a_catalog_survives_its_document_also_by_way_of_json(catalog: Catalog) -> None:
    document = catalog_document(catalog)
    assert parse_catalog(document) == catalog
    assert parse_catalog(json.loads(json.dumps(document))) == catalog


@given(catalogs())
def test_a_canonical_document_is_its_own_canonical_form(catalog: Catalog) -> None:
    document = catalog_document(catalog)
    assert json.dumps(catalog_document(parse_catalog(document))) == json.dumps(document)


# --- Mistakes ---

LONG = "é" * 64 + "x"
NAME_RULE = "must match [a-z][a-z0-9_]{0,63}"
AMOUNT_RULE = "must be 0 to 1,000,000,000,000,000"
CREDITS_RULE = "must be 1 to 1,000,000,000,000,000"
LIMIT_RULE = "must be -1 to 9,223,372,036,854,775,807"
PERIOD_RULE = "must be one of day, week, month, lifetime"
PRICE_RULE = "must hold either flat or rates"
DECIMAL_RULE = "must be a decimal number, like 9.90"
CURRENCY_RULE = "must be three capital letters, like EUR"
CONTROL_RULE = "must not hold control characters"


@pytest.mark.parametrize(
    ("path", "value", "blamed", "description"),
    [
        # Types, each named in words.
        ("operations", None, "operations", "must be a table, not null"),
        ("operations", [], "operations", "must be a table, not a list"),
        ("levels", "free", "levels", "must be a table, not text"),
        ("packages", 1, "packages", "must be a table, not a whole number"),
        ("operations/scripts", 1.5, "operations.scripts", "must be a table, not a number with a fraction"),
        ("operations/scripts/price", True, "operations.scripts.price", "must be a table, not true or false"),
        ("operations/scripts/price/flat", True, "operations.scripts.price.flat",
         "must be a whole number, not true or false"),
        ("operations/scripts/price/flat", 1.0, "operations.scripts.price.flat",
         "must be a whole number, not a number with a fraction"),
        ("operations/scripts/price/flat", object(), "operations.scripts.price.flat",
         "must be a whole number, not something else"),
        ("operations/scripts/display_name", 1, "operations.scripts.display_name",
         "must be text, not a whole number"),
        ("levels/free/limits", {}, "levels.free.limits", "must be a list, not a table"),
        ("levels/free/limits/0", "x", "levels.free.limits[0]", "must be a table, not text"),
        ("levels/free/limits/0/period", 3, "levels.free.limits[0].period",
         "must be text, not a whole number"),
        ("levels/free/allowance", None, "levels.free.allowance", "must be a table, not null"),
        ("default_level", [], "default_level", "must be text, not a list"),
        ("packages/starter/features", "x", "packages.starter.features", "must be a list, not text"),
        ("packages/starter/features/0", 1, "packages.starter.features[0]",
         "must be text, not a whole number"),
        ("packages/starter/price", "9.90", "packages.starter.price", "must be a table, not text"),
        # Keys.
        ("operation", {}, "operation",
         "is not known here; known are default_level, operations, levels, packages"),
        ("levels/free/limit", [], "levels.free.limit",
         "is not known here; known are display_name, allowance, limits"),
        ("packages/starter/price/a b", 1, 'packages.starter.price."a b"',
         "is not known here; known are currency_code, amount"),
        # Names.
        ("operations/Scripts", {"price": {"flat": 1}}, "operations.Scripts", NAME_RULE),
        ("levels/a\n", {}, 'levels."a\\n"', NAME_RULE),
        ("packages/", FULL["packages"]["starter"], 'packages.""', NAME_RULE),
        ("operations/summaries/price/rates/0/metric", "to kens", "operations.summaries.price.rates[0].metric",
         NAME_RULE),
        # References.
        ("levels/free/limits/1/operation", "script", "levels.free.limits[1].operation",
         "is no operation of this catalog"),
        ("default_level", "gold", "default_level", "is no level of this catalog"),
        ("default_level", "", "default_level", "is no level of this catalog"),
        # Ranges.
        ("operations/scripts/price/flat", -1, "operations.scripts.price.flat", AMOUNT_RULE),
        ("operations/scripts/price/flat", MAX_AMOUNT + 1, "operations.scripts.price.flat", AMOUNT_RULE),
        ("operations/summaries/price/minimum", -1, "operations.summaries.price.minimum", AMOUNT_RULE),
        ("operations/summaries/price/rates/0/amount", -1, "operations.summaries.price.rates[0].amount",
         AMOUNT_RULE),
        ("operations/summaries/price/rates/0/per", 0, "operations.summaries.price.rates[0].per",
         CREDITS_RULE),
        ("levels/free/allowance/credits", 0, "levels.free.allowance.credits", CREDITS_RULE),
        ("levels/free/limits/0/limit", -2, "levels.free.limits[0].limit", LIMIT_RULE),
        ("levels/free/limits/0/limit", 2**63, "levels.free.limits[0].limit", LIMIT_RULE),
        ("packages/starter/credits", 0, "packages.starter.credits", CREDITS_RULE),
        # Periods.
        ("levels/free/limits/0/period", "Month", "levels.free.limits[0].period", PERIOD_RULE),
        ("levels/free/allowance/period", "year", "levels.free.allowance.period", PERIOD_RULE),
        # Prices.
        ("operations/scripts/price", {}, "operations.scripts.price", PRICE_RULE),
        ("operations/scripts/price", {"minimum": 1}, "operations.scripts.price", PRICE_RULE),
        ("operations/scripts/price", {"flat": 1, "rates": [RATE]}, "operations.scripts.price", PRICE_RULE),
        ("operations/scripts/price", {"flat": 1, "rates": [RATE], "minimum": 1}, "operations.scripts.price",
         PRICE_RULE),
        ("operations/scripts/price", {"flat": 1, "minimum": 1}, "operations.scripts.price.minimum",
         "is only for a price with rates"),
        ("operations/scripts/price", {"rates": []}, "operations.scripts.price.rates",
         "must hold 1 to 32 entries, not 0"),
        ("operations/scripts/price", {"rates": [{**RATE, "metric": f"m{i}"} for i in range(33)]},
         "operations.scripts.price.rates", "must hold 1 to 32 entries, not 33"),
        ("operations/scripts/price", {"rates": [RATE, RATE]}, "operations.scripts.price.rates[1]",
         "repeats the metric of an earlier one"),
        *(("packages/starter/price/currency_code", code, "packages.starter.price.currency_code",
           CURRENCY_RULE) for code in ("eur", "EU", "EURO", "EUR\n", "")),
        *(("packages/starter/price/amount", amount, "packages.starter.price.amount", DECIMAL_RULE)
          for amount in ("", "9,90", "-1", "+1", ".5", "5.", "1e3", "1.2.3", " 1", "1\n", "٣", "NaN",
                         "1" * 19)),
        # Texts.
        ("operations/scripts/display_name", LONG, "operations.scripts.display_name",
         "must be at most 128 bytes of UTF-8"),
        *(("levels/free/display_name", text, "levels.free.display_name", CONTROL_RULE)
          for text in ("a\x00", "a\nb", "\x7f", "\x85", "\ud800")),
        ("packages/starter/features/1", "x" * 1025, "packages.starter.features[1]",
         "must be at most 1,024 bytes of UTF-8"),
        ("packages/starter/features", ["x"] * 101, "packages.starter.features",
         "must hold 0 to 100 entries, not 101"),
        # Repeats.
        ("levels/free/limits/2/period", "month", "levels.free.limits[2]",
         "repeats the operation and period of an earlier one"),
    ],
)  # fmt: skip
def test_a_mistake_is_found_and_nothing_else_blamed(
    path: str, value: object, blamed: str, description: str
) -> None:
    assert mistakes_in(changed(path, value)) == {blamed: description}


@pytest.mark.parametrize(
    ("path", "blamed"),
    [
        ("default_level", "default_level"),
        ("levels", "levels"),
        ("operations/scripts/price", "operations.scripts.price"),
        ("levels/free/allowance/credits", "levels.free.allowance.credits"),
        ("levels/free/allowance/period", "levels.free.allowance.period"),
        ("packages/starter/credits", "packages.starter.credits"),
        ("packages/starter/price", "packages.starter.price"),
        ("packages/starter/price/currency_code", "packages.starter.price.currency_code"),
        ("packages/starter/price/amount", "packages.starter.price.amount"),
    ],
)
def test_what_is_required_and_missing_is_named(path: str, blamed: str) -> None:
    assert mistakes_in(without(path)) == {blamed: "is required"}


def test_every_field_of_a_rate_and_of_a_limit_is_required() -> None:
    document = changed("operations/scripts/price", {"rates": [{}]})
    document = changed("levels/pro", {"limits": [{}]}, document)
    assert mistakes_in(document) == dict.fromkeys(
        [
            "operations.scripts.price.rates[0].metric",
            "operations.scripts.price.rates[0].amount",
            "operations.scripts.price.rates[0].per",
            "levels.pro.limits[0].operation",
            "levels.pro.limits[0].period",
            "levels.pro.limits[0].limit",
        ],
        "is required",
    )


def test_a_catalog_without_levels_is_refused() -> None:
    document = {"default_level": "free", "levels": {}}
    assert mistakes_in(document)["levels"] == "must hold 1 to 100 entries, not 0"


@pytest.mark.parametrize(
    ("kind", "count", "item"),
    [
        ("operations", 1_001, {"price": {"flat": 1}}),
        ("levels", 101, {}),
        ("packages", 1_001, FULL["packages"]["starter"]),
    ],
)
def test_too_many_of_a_kind_are_refused(kind: str, count: int, item: object) -> None:
    document = {**SMALLEST, kind: {"free": item} | {f"n{i}": item for i in range(count - 1)}}
    description = mistakes_in(document)[kind]
    assert description.endswith(f"to {count - 1:,} entries, not {count:,}")


def test_several_mistakes_are_all_named_at_once() -> None:
    document = changed("operations/scripts/price/flat", -1)
    document = changed("operations/Bad", {"price": {"flat": "1", "rate": []}}, document)
    document = changed(
        "levels/free/limits/1", {"operation": "nope", "period": "year", "limit": True}, document
    )
    document = changed("default_level", "gold", document)
    document = changed("packages/starter/price", {"currency_code": "€", "amount": "1,5"}, document)
    document = changed("extra", 1, document)
    assert mistakes_in(document) == {
        "extra": "is not known here; known are default_level, operations, levels, packages",
        "operations.Bad": NAME_RULE,
        "operations.Bad.price.flat": "must be a whole number, not text",
        "operations.Bad.price.rate": "is not known here; known are flat, rates, minimum",
        "operations.scripts.price.flat": AMOUNT_RULE,
        "levels.free.limits[1].operation": "is no operation of this catalog",
        "levels.free.limits[1].period": PERIOD_RULE,
        "levels.free.limits[1].limit": "must be a whole number, not true or false",
        "default_level": "is no level of this catalog",
        "packages.starter.price.currency_code": CURRENCY_RULE,
        "packages.starter.price.amount": DECIMAL_RULE,
    }


def test_a_repeat_is_found_also_where_the_rest_of_the_item_is_wrong() -> None:
    limit = {"operation": "scripts", "period": "month", "limit": "many"}
    assert mistakes_in(changed("levels/pro/limits", [limit, limit])) == {
        "levels.pro.limits[0].limit": "must be a whole number, not text",
        "levels.pro.limits[1].limit": "must be a whole number, not text",
        "levels.pro.limits[1]": "repeats the operation and period of an earlier one",
    }


@pytest.mark.parametrize("unreadable", [None, 1, [], {}])
def test_limits_whose_names_cannot_be_read_do_not_count_as_repeats(unreadable: object) -> None:
    limit = {"operation": unreadable, "period": "month", "limit": 1}
    assert set(mistakes_in(changed("levels/pro/limits", [limit, limit]))) == {
        "levels.pro.limits[0].operation",
        "levels.pro.limits[1].operation",
    }


def test_a_limit_is_not_blamed_for_a_mistake_in_its_operation() -> None:
    assert list(mistakes_in(changed("operations/scripts/price/flat", -1))) == [
        "operations.scripts.price.flat"
    ]
    assert list(mistakes_in(changed("operations", "none"))) == ["operations"]


def test_a_number_too_long_to_print_is_out_of_range_like_any_other() -> None:
    huge = changed("packages/starter/credits", 10**5000)
    assert mistakes_in(huge) == {"packages.starter.credits": CREDITS_RULE}


@pytest.mark.parametrize("document", [None, [], "x", 1, True])
def test_what_is_no_table_at_all_is_one_mistake_of_the_whole(document: object) -> None:
    (description,) = mistakes_in(document).values()
    assert description.startswith("must be a table, not ")


def test_a_strange_key_is_shown_quoted_and_short() -> None:
    odd: Document = {"b" * 1_000_000: 1, "\ud800\x1b": 1, **SMALLEST}
    assert set(mistakes_in(odd)) == {'"' + "b" * 80 + '..."', '"\\ud800\\u001b"'}
    assert set(mistakes_in({"c" * 80: 1, **SMALLEST})) == {"c" * 80}
    no_text: dict[Any, Any] = {3: 1, **SMALLEST}
    assert set(mistakes_in(no_text)) == {"?"}


def test_the_exception_reads_as_a_list_of_sentences_and_survives_pickling() -> None:
    with pytest.raises(CatalogInvalid) as caught:
        parse_catalog(changed("levels/free/limits/0/period", "year"))
    assert str(caught.value) == (
        "the catalog is invalid:\n  levels.free.limits[0].period must be one of day, week, month, lifetime"
    )
    assert pickle.loads(pickle.dumps(caught.value)).mistakes == caught.value.mistakes
    with pytest.raises(CatalogInvalid, match="the document must be a table, not null"):
        parse_catalog(None)  # type: ignore[arg-type]


# --- Junk ---

KNOWN = st.sampled_from(
    ["default_level", "operations", "levels", "packages", "display_name", "price", "flat", "rates", "minimum",
     "metric", "amount", "per", "allowance", "limits", "credits", "period", "operation", "limit",
     "currency_code", "features", "free", "scripts", "tokens"]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=2)
    | st.sampled_from(["day", "month", "free", "scripts", "tokens", "EUR", "9.90", "\ud800", "\x00"])
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KNOWN | st.text(max_size=3) | st.integers() | st.none(), inner, max_size=5)
    ),
    max_leaves=20,
)


def is_refused_properly_or_sound(document: object) -> None:
    try:
        catalog = parse_catalog(document)  # type: ignore[arg-type]
    except CatalogInvalid as invalid:
        assert invalid.mistakes
        str(invalid).encode()
    else:
        assert parse_catalog(catalog_document(catalog)) == catalog


@given(JUNK)
def test_junk_raises_nothing_but_catalog_invalid(document: object) -> None:
    is_refused_properly_or_sound(document)


@given(st.dictionaries(KNOWN, JUNK, max_size=4), st.sampled_from(["operations", "levels", "packages"]))
def test_junk_in_the_right_places_raises_nothing_but_catalog_invalid(junk: Document, kind: str) -> None:
    is_refused_properly_or_sound({**SMALLEST, kind: {"free": junk}})


@st.composite
def spoiled_documents(draw: st.DrawFn) -> Document:
    """A valid document in which one value, anywhere, is replaced by junk."""
    document: Any = deepcopy(FULL)
    node = document
    while True:
        step = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[step], dict | list) or not node[step] or draw(st.booleans()):
            node[step] = draw(JUNK)
            return document  # type: ignore[no-any-return]
        node = node[step]


@given(spoiled_documents())
def test_a_document_spoiled_anywhere_raises_nothing_but_catalog_invalid(document: Document) -> None:
    is_refused_properly_or_sound(document)
