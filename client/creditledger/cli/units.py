# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""Amounts and times as people read and type them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

MAX_AMOUNT = 10**15


@dataclass(frozen=True)
class Amounts:
    """Writes amounts of a ledger whose minor unit has so many decimals, 0 to 9."""

    decimals: int

    def text(self, amount: int) -> str:
        """1250 as "12.50", with 2 decimals."""
        return f"{Decimal(amount).scaleb(-self.decimals):.{self.decimals}f}"

    def signed(self, amount: int) -> str:
        """The same with a plus where it is one; no change is "0" without a sign."""
        return f"+{self.text(amount)}" if amount > 0 else self.text(amount)

    def average(self, amount: str) -> str:
        """A decimal number of minor units, to two places more than an amount has."""
        return f"{Decimal(amount).scaleb(-self.decimals):.{self.decimals + 2}f}"


def amount(text: str) -> int:
    """An amount as it is typed: a whole number of the minor unit, as everywhere in the API."""
    if text.isdecimal() and 1 <= int(text) <= MAX_AMOUNT:
        return int(text)
    raise click.BadParameter(
        f"{text!r} is not a whole number from 1 to 10^15; amounts are in the ledger's minor unit,"
        " so with 2 decimals 12.50 is written 1250."
    )


def time(text: str) -> datetime:
    """A time as it is typed: ISO 8601, in UTC unless it says otherwise."""
    try:
        typed = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a time such as 2027-01-31, 2027-01-31T12:00Z or 2027-01-31T12:00+02:00."
        ) from None
    return typed if typed.tzinfo else typed.replace(tzinfo=UTC)


def metric(text: str) -> tuple[str, int]:
    """A metric as it is typed: name=value."""
    name, _, number = text.partition("=")
    if name and number.isdecimal() and int(number) <= MAX_AMOUNT:
        return name, int(number)
    raise click.BadParameter(f"{text!r} is not NAME=VALUE with a whole number from 0 to 10^15.")


def zone(text: str) -> tzinfo:
    """A time zone by its IANA name."""
    if text == "UTC":
        return UTC  # also where the machine has no zones
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise click.BadParameter(f"{text!r} is not a time zone that this machine knows.") from None


def time_text(time: Timestamp) -> str:
    """A time to the second, in UTC."""
    return f"{time.ToDatetime(UTC):%Y-%m-%d %H:%M:%SZ}"


def duration_text(duration: Duration) -> str:
    """Seconds to the millisecond."""
    return f"{duration.ToTimedelta().total_seconds():.3f} s"


def word(enum: _EnumTypeWrapper[Any], value: int, prefix: str) -> str:
    """The name of an enum's value as people read it: "grant expired"."""
    if value not in enum.values():
        return str(value)  # of a newer server
    return str(enum.Name(value)).removeprefix(prefix).replace("_", " ").lower()


def printable(text: str) -> str:
    """A text of somebody else's without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)
