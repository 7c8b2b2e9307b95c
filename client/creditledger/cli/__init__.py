# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""The command `creditledger`: look at accounts, grant, charge and watch from a shell.

It needs the extra `cli`; nothing else in this package imports it.
"""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command; never returns."""
    try:
        from creditledger.cli.commands import commands
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit("error: the command needs more than the library; run: pip install 'creditledger[cli]'")
    for stream in (sys.stdout, sys.stderr):
        # A letter that a terminal of another time lacks is no reason to fail after something was charged.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    commands(prog_name="creditledger")
