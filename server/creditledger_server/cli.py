"""The command line: serve, migrate, catalog, verify, rebuild-usage.

Whatever goes wrong is told in one line on stderr, with exit status 1. What a command needs is imported when it runs, so
that ``--help`` and ``catalog check`` are there at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from .config import ConfigError, Settings, load_settings, settings_table

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from .domain.catalog import Catalog
    from .ledger.usage import Rebuilt
    from .ledger.verify import Report

_Function = TypeVar("_Function", bound="Callable[..., Any]")


class Failure(click.ClickException):
    """What a command could not do, and why: one line."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(
            f"{click.style('error:', fg='red', bold=True)} {self.message}", file=file, err=file is None
        )


class _Commands(click.Group):
    """Commands whose every error is one line, foreseen or not; ``python -X dev`` lets the traceback through."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            ctx.exit(130)
        except Exception as error:
            if sys.flags.dev_mode:
                raise
            raise Failure(" ".join(f"{type(error).__name__}: {error}".split())) from error


class _CommandWithSettings(click.Command):
    """A command whose help ends with the table of settings."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Settings, from the environment; an option goes before its setting"):
            formatter.write_dl(settings_table())
        super().format_epilog(ctx, formatter)


def _database_options(command: _Function) -> _Function:
    """Adds the options that say which database a command works on."""
    url = click.option(
        "--database-url", metavar="URL", help="Postgres 15 or newer, as postgresql://user@host/name."
    )
    embedded = click.option(
        "--embedded",
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="Without a URL: the folder of the embedded Postgres.  [default: .data]",
    )
    return url(embedded(command))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="creditledger-server", prog_name="creditledger-server")
def main() -> None:
    """The credit ledger: may this account do this, charge for it, watch usage as it happens.

    \b
    First steps:
      creditledger-server serve --migrate --catalog catalog.example.toml
      grpcurl -plaintext 127.0.0.1:50051 creditledger.v1.LedgerAdmin/GetServerInfo

    The first line starts an embedded Postgres in .data. With a Postgres of your own, set CREDITLEDGER_DATABASE_URL or
    give --database-url, and bring it to the schema with 'migrate up'.
    """


@main.command(cls=_CommandWithSettings)
@click.option("--listen", metavar="HOST:PORT", help="Where to serve.  [default: 127.0.0.1:50051]")
@click.option(
    "--metrics-listen",
    metavar="HOST:PORT",
    help="Where to serve /metrics, for Prometheus.  [default: nowhere]",
)
@click.option("--workers", metavar="N", help="Processes that serve there.  [default: 1]")
@_database_options
@click.option(
    "--migrate", "migrate_first", is_flag=True, help="First bring the database to the schema needed."
)
@click.option(
    "--catalog",
    "catalog_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Make the catalog in this TOML file the current one, if it differs from that.",
)
@click.option(
    "--insecure", is_flag=True, default=None, help="Allow an address that others than this machine reach."
)
def serve(
    listen: str | None,
    metrics_listen: str | None,
    workers: str | None,
    database_url: str | None,
    embedded: Path | None,
    migrate_first: bool,
    catalog_file: Path | None,
    insecure: bool | None,
) -> None:
    """Serve the ledger until Ctrl-C or SIGTERM.

    Prints one line that begins with 'ready:' once it takes calls.

    \b
    Examples:
      creditledger-server serve --migrate --catalog catalog.example.toml
      creditledger-server serve --database-url postgresql://ledger@db.internal/ledger
    """
    settings = _settings(
        listen=listen,
        metrics_listen=metrics_listen,
        workers=workers,
        database_url=database_url,
        embedded=embedded,
        insecure=insecure,
    )
    catalog = None if catalog_file is None else _load_catalog(catalog_file)
    with _database(settings) as dsn:
        from .storage import schema

        if migrate_first:
            _say_applied(schema.migrate(dsn))
        else:
            schema.check(dsn)
        if settings.workers > 1:
            _supervise(settings, dsn, catalog)
        else:
            _serve(settings, dsn, catalog)


@main.command(hidden=True)
def worker() -> None:
    """One process of 'serve --workers', which starts it."""
    from .workers import drain_with_supervisor, ordered_settings

    settings = ordered_settings()
    assert settings.database_url is not None
    drain_with_supervisor()
    _serve(settings, settings.database_url, None, share_port=True)


@main.group(invoke_without_command=True)
@click.option(
    "--sql", "as_sql", is_flag=True, help="Print the whole schema as SQL for psql; needs no database."
)
@click.pass_context
def migrate(ctx: click.Context, as_sql: bool) -> None:
    """Bring a database to the schema that this server needs.

    Each revision is one transaction, and only one process migrates at a time. There is no way down: a server refuses a
    database that a newer one migrated.

    \b
    Examples:
      creditledger-server migrate status --database-url postgresql://ledger@db.internal/ledger
      creditledger-server migrate --sql | psql --set ON_ERROR_STOP=1 ledger
    """
    if as_sql:
        _print_sql()
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@migrate.command("up")
@_database_options
@click.option("--sql", "as_sql", is_flag=True, help="Print it instead, as 'migrate --sql' does.")
def migrate_up(database_url: str | None, embedded: Path | None, as_sql: bool) -> None:
    """Apply the revisions that are missing."""
    if as_sql:
        _print_sql()
        return
    with _database(_settings(database_url=database_url, embedded=embedded)) as dsn:
        from .storage import schema

        applied = schema.migrate(dsn)
        _say_applied(applied)
        if not applied:
            click.echo(f"up to date: {schema.expected_version()}")


@migrate.command("status")
@_database_options
def migrate_status(database_url: str | None, embedded: Path | None) -> None:
    """List the revisions, and which are missing; exit status 1 if any is."""
    with _database(_settings(database_url=database_url, embedded=embedded)) as dsn:
        from .storage import schema

        status = schema.status(dsn)
    for revision in status.revisions:
        click.echo(
            f"{revision.revision_id}  {'applied' if revision.applied else 'pending'}  {revision.title}"
        )
    if status.pending:
        raise click.exceptions.Exit(1)


@main.group()
def catalog() -> None:
    """Look at catalog files: operations and prices, levels, packages."""


@catalog.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def catalog_check(file: Path) -> None:
    """Check a catalog file and name every mistake in it; needs no database.

    \b
    Example:
      creditledger-server catalog check catalog.example.toml
    """
    from .domain.catalog_document import CatalogInvalid

    try:
        found = _read_catalog(file)
    except CatalogInvalid as error:
        for mistake in error.mistakes:
            click.echo(f"{mistake.path or file}: {mistake.description}")
        raise click.exceptions.Exit(1) from error
    counts = {"operations": found.operations, "levels": found.levels, "packages": found.packages}
    click.echo(f"{file}: valid, {', '.join(f'{len(parts)} {name}' for name, parts in counts.items())}")


@main.command()
@_database_options
def verify(database_url: str | None, embedded: Path | None) -> None:
    """Recompute every account from its entries and compare.

    Reads the whole ledger, changes nothing, and may run beside servers. Exit status 1 if anything does not fit; then
    each mismatch has a line of its own.
    """
    with _database(_settings(database_url=database_url, embedded=embedded)) as dsn:
        from .storage import schema

        schema.check(dsn)
        report = _verify(dsn)
    click.echo(f"accounts={report.accounts} entries={report.entries} mismatches={len(report.mismatches)}")
    for mismatch in report.mismatches:
        click.echo(mismatch)
    if report.mismatches:
        raise click.exceptions.Exit(1)


@main.command("rebuild-usage")
@_database_options
def rebuild_usage(database_url: str | None, embedded: Path | None) -> None:
    """Recompute the sums of SummarizeUsage from the entries.

    Replaces what does not match the entries, sums what nobody has asked for yet, and may run beside servers. Exit
    status 1 if anything had to be replaced; then each account concerned has a line of its own.
    """
    with _database(_settings(database_url=database_url, embedded=embedded)) as dsn:
        from .storage import schema

        schema.check(dsn)
        rebuilt = _rebuild_usage(dsn)
    click.echo(f"accounts={rebuilt.accounts} entries={rebuilt.entries} differences={rebuilt.differences}")
    for line in rebuilt.lines:
        click.echo(line)
    if rebuilt.differences:
        raise click.exceptions.Exit(1)


def _settings(**options: object) -> Settings:
    try:
        return load_settings(**options)
    except ConfigError as error:
        raise Failure(str(error)) from error


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """The DSN of the database that the settings name; the embedded one runs as long as the context."""
    from .embedded import EmbeddedError, embedded_postgres
    from .storage.schema import SchemaError

    try:
        if settings.database_url is not None:
            yield settings.database_url
            return
        _notice(f"database: embedded Postgres in {settings.embedded}")
        with embedded_postgres(settings.embedded, _notice) as dsn:
            yield dsn
    except (EmbeddedError, SchemaError) as error:
        raise Failure(str(error)) from error


def _serve(settings: Settings, dsn: str, catalog: Catalog | None, *, share_port: bool = False) -> None:
    # gRPC's core writes to stderr what its caller is told anyway; it reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from .ledger.start import StartupError
    from .rpc.server import serve as serve_rpc

    try:
        _run(serve_rpc(settings, dsn, catalog=catalog, on_ready=_say_ready, share_port=share_port))
    except StartupError as error:
        raise Failure(str(error)) from error


def _supervise(settings: Settings, dsn: str, catalog: Catalog | None) -> None:
    from .ledger.start import StartupError
    from .workers import WorkersError, supervise

    try:
        asyncio.run(supervise(settings, dsn, catalog, _say_ready))
    except (StartupError, WorkersError) as error:
        raise Failure(str(error)) from error


def _verify(dsn: str) -> Report:
    from rich.console import Console
    from rich.progress import Progress

    from .ledger.verify import verify_ledger

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("verifying", total=None)
        return asyncio.run(
            verify_ledger(dsn, lambda done, total: progress.update(task, completed=done, total=total))
        )


def _rebuild_usage(dsn: str) -> Rebuilt:
    from rich.console import Console

    from .ledger.usage import rebuild_usage

    console = Console(stderr=True)
    with console.status("rebuilding") as status:
        return asyncio.run(
            rebuild_usage(dsn, lambda accounts: status.update(f"rebuilding: {accounts} accounts"))
        )


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs it on uvloop where there is one: less time per call goes into the event loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(coroutine)
    else:
        uvloop.run(coroutine)


def _read_catalog(file: Path) -> Catalog:
    """The catalog in a file; raises CatalogInvalid, or Failure if the file cannot be read or is no TOML."""
    from .domain.catalog_document import parse_catalog

    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"catalog {file}: {error.strerror}") from error
    except ValueError as error:  # Not TOML, or not UTF-8.
        raise Failure(f"catalog {file}: not TOML: {error}") from error
    return parse_catalog(document)


def _load_catalog(file: Path) -> Catalog:
    from .domain.catalog_document import CatalogInvalid

    try:
        return _read_catalog(file)
    except CatalogInvalid as error:
        first, *more = error.mistakes
        others = f" (and {len(more)} more: creditledger-server catalog check {file})" if more else ""
        raise Failure(f"catalog {file}: {first.path} {first.description}{others}") from error


def _print_sql() -> None:
    from .storage import schema

    click.echo(schema.sql(), nl=False)


def _say_applied(revisions: tuple[str, ...]) -> None:
    if revisions:
        _notice(f"migrated: {', '.join(revisions)}")


def _say_ready(address: str, metrics: Sequence[str]) -> None:
    told = "".join(f"  metrics: http://{each}/metrics" for each in metrics)
    click.echo(
        f"ready: {address}{told}  try: grpcurl -plaintext {address} creditledger.v1.LedgerAdmin/GetServerInfo"
    )


def _notice(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
