"""The catalog that newcomers start from."""

import re
import tomllib
from pathlib import Path

from creditledger_server.domain.catalog import Allowance, Catalog, MeteredPrice
from creditledger_server.domain.catalog_document import parse_catalog
from creditledger_server.domain.periods import Period
from creditledger_server.domain.pricing import cost_of

TEXT = (Path(__file__).parents[2] / "catalog.example.toml").read_text(encoding="utf-8")


def example() -> Catalog:
    return parse_catalog(tomllib.loads(TEXT))


def test_example_prices_the_four_operations() -> None:
    prices = {name: cost_of(operation.price, 1, {}) for name, operation in example().operations.items()}
    assert prices == {
        "script_generation": 1,
        "voice_creation": 5,
        "video_processing": 2,
        "chat_refinement": 1,
    }


def test_example_limits_each_level_per_month() -> None:
    catalog = example()
    limits = {
        (level, limit.operation): limit.limit
        for level, definition in catalog.levels.items()
        for limit in definition.limits
    }
    assert limits == {
        ("free", "script_generation"): 3,
        ("free", "voice_creation"): 1,
        ("free", "video_processing"): 2,
        ("pro", "script_generation"): 100,
        ("pro", "voice_creation"): 20,
        ("pro", "video_processing"): 50,
    }
    assert {limit.period for level in catalog.levels.values() for limit in level.limits} == {Period.MONTH}


def test_example_opens_accounts_on_free_brings_no_credits_by_itself_and_sells_two_packages() -> None:
    catalog = example()
    assert catalog.default_level == "free"
    assert [level.allowance for level in catalog.levels.values()] == [None, None]
    assert len(catalog.packages) == 2


def test_example_still_parses_with_what_its_comments_show() -> None:
    shown = re.sub(
        r"^# (?=\[operations|display_name|price\.|    \{|\]|allowance)", "", TEXT, flags=re.MULTILINE
    )
    catalog = parse_catalog(tomllib.loads(shown))
    price = catalog.operations["summarization"].price
    assert isinstance(price, MeteredPrice)
    assert cost_of(price, 1, {"tokens": 1834, "audio_seconds": 70}) == 6
    assert catalog.levels["pro"].allowance == Allowance(200, Period.MONTH)
