"""Shows an account's balance and every change of it as it happens, and goes on where it was stopped.

    .venv/bin/python examples/usage_watcher.py user-1 --cursor-file user-1.cursor

Stopped and started again with the same file, it first shows what happened in between.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from creditledger import (
    CreditLedgerClient,
    CursorAhead,
    CursorExpired,
    CursorInvalid,
    Entry,
    EntryKind,
    Usage,
    WatchUsageResponse,
)


def watch(ledger: CreditLedgerClient, account_id: str, cursor_file: Path) -> None:
    """Shows changes until it is interrupted."""
    while True:
        cursor = cursor_file.read_text() if cursor_file.exists() else None
        try:
            with ledger.watch_usage(account_id, cursor=cursor) as messages:
                for message in messages:
                    if line := describe(message):
                        print(line, flush=True)
                    # After it was shown: one shown twice is better than one missed.
                    save(cursor_file, message.cursor)
        except (CursorInvalid, CursorAhead, CursorExpired) as error:
            # A file of another account or ledger, or of a ledger before a backup of it was restored.
            print(f"starting anew: {error}", flush=True)
            cursor_file.unlink()


def describe(message: WatchUsageResponse) -> str | None:
    """The line to show for a message; None if it is not worth one."""
    match message.WhichOneof("event"):
        case "snapshot":
            return f"balance: {message.snapshot.balance.available} at revision {message.snapshot.revision}"
        case "change":
            return describe_entry(message.change.entry)
        case "caught_up":
            return "caught up"
        case _:  # A heartbeat: nothing new, but its cursor is.
            return None


def describe_entry(entry: Entry) -> str:
    """What an entry changed."""
    kind = EntryKind.Name(entry.kind).removeprefix("ENTRY_KIND_").lower()
    failed = " (failed)" if entry.usage.outcome == Usage.OUTCOME_FAILED else ""
    what = f"{kind} {entry.operation}{failed}" if entry.operation else kind
    return f"revision {entry.revision}: {what} {entry.amount:+}, balance: {entry.balance.available}"


def save(cursor_file: Path, cursor: str) -> None:
    """Replaces the file as a whole, so that it is never half written."""
    new = cursor_file.with_name(f"{cursor_file.name}.new")
    new.write_text(cursor)
    os.replace(new, cursor_file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("account_id")
    parser.add_argument(
        "--ledger", default="127.0.0.1:50051", metavar="HOST:PORT", help="the creditledger server"
    )
    parser.add_argument("--cursor-file", type=Path, default=Path("usage.cursor"), help="keeps what was shown")
    options = parser.parse_args()
    with CreditLedgerClient(options.ledger) as ledger:
        watch(ledger, options.account_id, options.cursor_file)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
