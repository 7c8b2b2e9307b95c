"""The backend of the usage tracker, run as its README says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from example_programs import running
from ledger_harness import ROOT

APP = ROOT / "examples/usage_tracker/app.py"


@contextmanager
def running_backend(ledger: str, port: int = 0) -> Iterator[str]:
    """The backend for a ledger server, for as long as the block lasts; yields its address. Port 0: a free one."""
    with running(APP, "--ledger", ledger, "--port", str(port)) as read_line:
        yield read_line().removeprefix("listening on ")
