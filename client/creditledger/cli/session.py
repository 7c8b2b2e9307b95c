# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""What every command has: a client of the ledger that its options name, and a place to write to."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

import click
import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console, Group, RenderableType

from creditledger._client import CreditLedgerClient
from creditledger.cli.failures import Failure, repeatable
from creditledger.cli.units import Amounts

P = ParamSpec("P")
M = TypeVar("M", bound=Message)

_ENDLESS = 10_000
"""Characters in a line, and lines, where there is no terminal that ends them."""

_OPTIONS = (
    click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON for protobuf."),
    click.option(
        "--target",
        envvar="CREDITLEDGER_TARGET",
        default="127.0.0.1:50051",
        show_default=True,
        show_envvar=True,
        metavar="HOST:PORT",
        help="Where the server is.",
    ),
    click.option("--tls", is_flag=True, help="Encrypt, and check the server's certificate."),
    click.option(
        "--ca-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="PEM",
        help="Encrypt, and trust these authorities instead of the usual ones.",
    ),
)


@dataclass(frozen=True)
class Session:
    """One run of a command."""

    ledger: CreditLedgerClient
    as_json: bool

    @cached_property
    def amounts(self) -> Amounts:
        """How this ledger's amounts are written; asks the server."""
        return Amounts(self.ledger.get_server_info().decimals)

    @cached_property
    def is_terminal(self) -> bool:
        """Whether people read it at once, rather than a file, a pipe or a test."""
        return sys.stdout.isatty()

    @cached_property
    def console(self) -> Console:
        """Where people read; what is not a terminal gets no colours, and lines as long as they are."""
        # What the ledger tells was typed by somebody: no markup in it.
        if self.is_terminal:
            return Console(highlight=False, markup=False, emoji=False)
        return Console(
            highlight=False, markup=False, emoji=False, color_system=None, width=_ENDLESS, height=_ENDLESS
        )

    @property
    def is_live(self) -> bool:
        """Whether what was drawn can be drawn over."""
        return self.is_terminal and not self.console.is_dumb_terminal

    @property
    def room(self) -> int:
        """How many characters a line has."""
        return self.console.width

    @property
    def block(self) -> str:
        """What bars are made of."""
        return "█" if self.console.encoding.startswith("utf") else "#"

    def show(self, *parts: RenderableType) -> None:
        """Prints for people, each part on lines of its own."""
        if self.is_terminal:
            self.console.print(Group(*parts))
            return
        with self.console.capture() as capture:
            self.console.print(Group(*parts))
        # The cells of a table are filled up to its width.
        for line in capture.get().splitlines():
            click.echo(line.rstrip())

    def mutate(
        self, send: Callable[..., M], request_id: str | None, describe: Callable[[M, Amounts], str]
    ) -> None:
        """Sends a mutation and prints its answer.

        Args:
            send: The client's method; called with a request_id.
            request_id: The one that was given; None draws one.
            describe: The answer in a line or more for people.
        """
        # Asked first: nothing that may fail comes after the mutation.
        amounts = None if self.as_json else self.amounts
        request_id = str(uuid4()) if request_id is None else request_id
        with repeatable(request_id, amounts):
            answer = send(request_id=request_id)
        if amounts is None:
            self.dump(answer)
        else:
            click.echo(describe(answer, amounts))

    def dump(self, message: Message, indent: int | None = 2) -> None:
        """Prints a message for programs; with `indent=None` as one line."""
        click.echo(MessageToJson(message, preserving_proto_field_name=True, indent=indent))


def ledger_command(command: Callable[Concatenate[Session, P], None]) -> Callable[P, None]:
    """Gives a command a Session, and the options that make one."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        options: dict[str, Any] = {name: kwargs.pop(name) for name in ("as_json", "target", "tls", "ca_file")}
        credentials = _credentials(options["tls"], options["ca_file"])
        with CreditLedgerClient(options["target"], credentials=credentials) as ledger:
            command(Session(ledger, options["as_json"]), *args, **kwargs)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


def _credentials(tls: bool, ca_file: Path | None) -> grpc.ChannelCredentials | None:
    if ca_file is not None:
        try:
            return grpc.ssl_channel_credentials(ca_file.read_bytes())
        except OSError as error:
            raise Failure(f"{ca_file}: {error.strerror}") from error
    return grpc.ssl_channel_credentials() if tls else None
