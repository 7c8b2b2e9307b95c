"""Catalogs for the model's examples: the same operations, levels and packages, at other prices or left out."""

from __future__ import annotations

import random

from model_catalog import PERIODS, Plain

OPERATIONS = ("chat", "free", "summary", "video", "voice")
LEVELS = ("basic", "max", "pro")
PACKAGES = ("large", "small")


def quiet_catalog() -> Plain:
    """No allowances and no limits, one price: what accounts of earlier examples are left with."""
    return {
        "operations": [{"operation": name, "flat": {"amount": 1}} for name in OPERATIONS],
        "levels": [{"level": name} for name in LEVELS],
        "default_level": "basic",
        "packages": [],
    }


def some_catalog(draw: random.Random) -> Plain:
    """Any catalog; it may drop a level that accounts are on."""
    levels = [name for name in LEVELS if draw.random() < 0.9] or [draw.choice(LEVELS)]
    return {
        "operations": [
            _operation(draw, name) for name in OPERATIONS if name != "video" or draw.random() < 0.9
        ],
        "levels": [_level(draw, name) for name in levels],
        "default_level": draw.choice(levels),
        "packages": [_package(draw, name) for name in PACKAGES if draw.random() < 0.9],
    }


def _operation(draw: random.Random, name: str) -> Plain:
    if name == "summary":
        rates = [
            {"metric": "seconds", "amount": draw.randint(0, 3), "per": 60},
            {"metric": "tokens", "amount": draw.randint(1, 3), "per": 1_000},
        ]
        return {"operation": name, "metered": {"rates": rates, "minimum": draw.randint(0, 2)}}
    amount = 0 if name == "free" else draw.choice((1, 2, 5))
    return {"operation": name, "flat": {"amount": amount}}


def _level(draw: random.Random, name: str) -> Plain:
    level: Plain = {"level": name}
    if draw.random() < 0.7:
        level["allowance"] = {"credits": draw.choice((1, 7, 20, 60)), "period": draw.choice(PERIODS)}
    level["limits"] = [
        {"operation": operation, "period": period, "limit": draw.choice((-1, 0, 2, 4, 8, 12, 20, 40))}
        for operation in ("chat", "summary", "voice")
        for period in PERIODS
        if draw.random() < 0.25
    ]
    return level


def _package(draw: random.Random, name: str) -> Plain:
    price = {"currency_code": "EUR", "amount": draw.choice(("9.90", "5"))}
    features = ["never expires"] if draw.random() < 0.5 else []
    credits_ = draw.choice((10, 50))
    return {"package_id": name, "credits": credits_, "price": price, "features": features}
