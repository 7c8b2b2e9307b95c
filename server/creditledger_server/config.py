"""Every setting of the server: one table of name, type, default, range and meaning.

A setting is read from the environment, as ``CREDITLEDGER_`` and its name in capitals; options of the command line go
before it. Nothing else reads the environment: other code is handed the values it needs.
"""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self

from annotated_types import Ge, Le
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PREFIX: Final = "CREDITLEDGER_"


class ConfigError(Exception):
    """A setting has no usable value; the message is one line and names each."""


def split_address(address: str) -> tuple[str, int]:
    """The host and the port of ``host:port`` or ``[IPv6 address]:port``; raises ValueError."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not (colon and bare and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError("must be HOST:PORT, like 127.0.0.1:50051")
    if ":" in bare and host != f"[{bare}]":
        raise ValueError("must have its IPv6 address in brackets, like [::1]:50051")
    return bare, int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach ``address``."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(value: str) -> str:
    split_address(value)
    return value


def _database_url(value: str) -> str:
    if not value.startswith(("postgresql://", "postgres://")):
        # Without the value, which may hold a password.
        raise ValueError("must begin with postgresql://")
    return value


def _workers(value: int) -> int:
    if value > 1 and sys.platform != "linux":
        raise ValueError("must be 1: only Linux spreads connections over processes that share a port")
    return value


class Settings(BaseSettings):
    """What can be set; ``creditledger-server serve --help`` prints the same table."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    database_url: Annotated[str, AfterValidator(_database_url)] | None = Field(
        None, repr=False, description="Postgres 15 or newer, as postgresql://…; not set: the embedded one"
    )
    pooled: bool = Field(
        False, description="Postgres is behind a pooler that hands out sessions per transaction"
    )
    embedded: Path = Field(Path(".data"), description="folder of the embedded Postgres")
    listen: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1:50051", description="address to serve on; port 0 takes a free one"
    )
    metrics_listen: Annotated[str, AfterValidator(_address)] | None = Field(
        None,
        description="address of /metrics, for worker N at port + N - 1; port 0 takes a free one; not set: none",
    )
    insecure: bool = Field(
        False, description="serve on more than loopback, though anybody there may do anything"
    )
    workers: Annotated[int, AfterValidator(_workers)] = Field(
        1, ge=1, le=64, description="processes that serve the address; more than 1 only on Linux"
    )

    decimals: int | None = Field(
        None, ge=0, le=9, description="decimals of an amount, fixed at the ledger's first start; not set: 0"
    )
    lanes: int = Field(
        2, ge=1, le=64, description="connections that write; an account belongs to one of them"
    )
    max_batch: int = Field(512, ge=1, le=10_000, description="most requests that one transaction takes")
    queue_limit: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="most requests that wait in a lane; more are SERVER_OVERLOADED",
    )
    pool_size: int = Field(4, ge=1, le=100, description="connections that read")
    lock_timeout_ms: int = Field(1_000, ge=10, le=60_000, description="longest wait for an account's lock")
    statement_timeout_ms: int = Field(3_000, ge=100, le=600_000, description="longest run of one statement")
    default_deadline_ms: int = Field(
        10_000, ge=100, le=600_000, description="deadline of a unary call that came without one"
    )
    heartbeat_seconds: float = Field(
        15, ge=0.1, le=3_600, description="time between heartbeats of a WatchUsage stream"
    )
    sweeper: bool = Field(
        True, description="write expiries and allowances when they fall due, if no other process does"
    )
    watch_poll_ms: int = Field(
        100, ge=10, le=60_000, description="longest time until entries of other processes are looked for"
    )
    watch_hints: bool = Field(
        True, description="tell other processes of commits, and listen to them, by LISTEN and NOTIFY"
    )
    listen_url: Annotated[str, AfterValidator(_database_url)] | None = Field(
        None,
        repr=False,
        description="Postgres without a pooler between, to LISTEN; not set: the database URL, if it is that",
    )
    commit_log_hours: int = Field(
        168, ge=1, le=100_000, description="for how long a cursor of all accounts can be resumed, at least"
    )

    @model_validator(mode="after")
    def _insecure_only_if_told(self) -> Self:
        addresses = filter(None, (self.listen, self.metrics_listen))
        if not self.insecure and (open_ := next((each for each in addresses if not is_loopback(each)), None)):
            raise ValueError(
                f"{open_} is not a loopback address and there are no tokens yet:"
                f" --insecure (or {PREFIX}INSECURE=true) serves it to everybody who can reach it"
            )
        return self

    @model_validator(mode="after")
    def _metrics_port_of_every_worker(self) -> Self:
        if self.metrics_listen is not None and self.workers > 1:
            _, port = split_address(self.metrics_listen)
            if not 1 <= port <= (1 << 16) - self.workers:
                raise ValueError(
                    f"{self.metrics_listen} leaves no port to every worker: the first takes the one that is told,"
                    " and each further one the next"
                )
        return self


def load_settings(**options: object) -> Settings:
    """The settings of the environment and, before them, the given options that are not None; raises ConfigError."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        mistakes = [
            _mistake(str(each["loc"][0]) if each["loc"] else "", each["msg"], given)
            for each in error.errors()
        ]
        raise ConfigError("; ".join(mistakes)) from error


def _mistake(name: str, message: str, given: dict[str, object]) -> str:
    message = message.removeprefix("Value error, ")
    if not name:
        return message
    source = f"--{name.replace('_', '-')}" if name in given else f"{PREFIX}{name.upper()}"
    return f"{source}: {message[:1].lower()}{message[1:]}"


def settings_table() -> list[tuple[str, str]]:
    """Each setting as its variable with the default, and its meaning with the range."""
    return [
        (f"{PREFIX}{name.upper()}={'' if field.default is None else field.default}", _meaning(field))
        for name, field in Settings.model_fields.items()
    ]


def _meaning(field: FieldInfo) -> str:
    bounds = {type(bound): bound for bound in field.metadata}
    if Ge in bounds and Le in bounds:
        return f"{field.description} ({bounds[Ge].ge:,} to {bounds[Le].le:,})"
    return field.description or ""
