# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""What goes wrong, told in one line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from creditledger.cli.units import Amounts, printable
from creditledger.errors import CreditLedgerError, InsufficientCredits


class Failure(click.ClickException):
    """What a command could not do, and why; exit status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        label = click.style("error:", fg="red", bold=True)
        click.echo(f"{label} {printable(' '.join(self.message.split()))}", file=file, err=file is None)


class Commands(click.Group):
    """Commands whose every error is one line, foreseen or not; `python -X dev` lets the traceback through."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except CreditLedgerError as error:
            raise Failure(describe(error)) from error
        except KeyboardInterrupt:
            ctx.exit(130)
        except Exception as error:
            if sys.flags.dev_mode:
                raise
            raise Failure(f"{type(error).__name__}: {error}") from error


def describe(error: CreditLedgerError, amounts: Amounts | None = None) -> str:
    """The reason and the message; or instead of that every field that breaks a rule."""
    if isinstance(error, InsufficientCredits) and amounts is not None:
        # The message has them in the minor unit.
        required, available = amounts.text(error.required), amounts.text(error.available)
        return f"{error.reason}: {required} credits are required and {available} available"
    if error.field_violations:
        fields = (f"{violation.field}: {violation.description}" for violation in error.field_violations)
        return f"{error.reason}: {'; '.join(fields)}"
    return str(error)


@contextmanager
def repeatable(request_id: str, amounts: Amounts | None) -> Iterator[None]:
    """Tells the id of a mutation that may have happened, so that the same one can be sent again.

    With `amounts`, a refusal tells credits as they are shown.
    """
    try:
        yield
    except CreditLedgerError as error:
        advice = f"; {_advice(request_id)}" if error.outcome_unknown else ""
        raise Failure(describe(error, amounts) + advice) from error
    except KeyboardInterrupt:
        raise Failure(f"interrupted; {_advice(request_id)}") from None


def _advice(request_id: str) -> str:
    return f"it may have happened: repeat the command with --request-id {request_id}"
