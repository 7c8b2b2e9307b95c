"""Runs of the command ``creditledger`` as processes, without a terminal or with one."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COMMAND = (sys.executable, "-m", "creditledger.cli")
_SECONDS = 30.0
"""Only ends a run that would hang."""
_DISPLAY = {"COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
_UNKNOWN = "it may have happened: repeat the command with --request-id "


class Cli:
    """The command, with a server as its target."""

    def __init__(self, target: str) -> None:
        self.target = target

    @property
    def environment(self) -> dict[str, str]:
        """Of a run. Of the settings that change colours and widths none is the developer's."""
        kept = {name: value for name, value in os.environ.items() if name not in _DISPLAY}
        return kept | {
            "CREDITLEDGER_TARGET": self.target,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Starts a run."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One run to its end."""
        with self.start(*arguments, **environment) as process:
            try:
                out, error = process.communicate(timeout=_SECONDS)
            finally:
                process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def text(self, *arguments: str, **environment: str) -> str:
        """What a run prints that must succeed and say nothing on stderr."""
        result = self.run(*arguments, **environment)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    def lines(self, *arguments: str) -> list[str]:
        """Its lines, with single spaces between words."""
        return [" ".join(line.split()) for line in self.text(*arguments).splitlines()]

    def json(self, *arguments: str) -> Any:
        """The document that it prints with --json."""
        return json.loads(self.text(*arguments, "--json"))

    def json_lines(self, *arguments: str) -> list[Any]:
        """The documents that it prints with --json, one to a line."""
        return [json.loads(line) for line in self.text(*arguments, "--json").splitlines()]

    def failure(self, *arguments: str, status: int = 1) -> str:
        """What a run says that must fail: one line, without its label."""
        result = self.run(*arguments)
        assert (result.returncode, result.stdout) == (status, "")
        (line,) = result.stderr.splitlines()
        label, _, message = line.partition(": ")
        assert label == "error"
        return message

    @contextmanager
    def running(self, *arguments: str) -> Iterator[Running]:
        """A run that goes on until the end of the block, where Ctrl-C must end it with status 0."""
        process = self.start(*arguments)
        try:
            yield Running(process)
            process.send_signal(signal.SIGINT)
            assert process.wait(_SECONDS) == 0
        finally:
            process.kill()
            process.communicate()

    @contextmanager
    def in_terminal(self, *arguments: str, width: int = 120) -> Iterator[Screen]:
        """A run in a terminal, which must end with status 0 when the block does, by itself or by its Ctrl-C."""
        terminal, slave = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.environment | {"TERM": "xterm", "COLUMNS": str(width), "LINES": "50"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            # A session of its own, with this as its terminal, so that Ctrl-C reaches it.
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        try:
            yield Screen(terminal)
            assert process.wait(_SECONDS) == 0
        finally:
            process.kill()
            process.wait()
            os.close(terminal)


class Running:
    """A run that prints lines to a pipe."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def line(self) -> str:
        """The next line of stdout, with single spaces between words."""
        assert self._process.stdout is not None
        return " ".join(self._process.stdout.readline().split())


class Screen:
    """What a run draws."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.drawn = ""
        """All that was written so far."""

    def ctrl_c(self) -> None:
        """Types it."""
        os.write(self._terminal, b"\x03")

    def await_text(self, pattern: str) -> None:
        """Waits until it is drawn, anew; colours and columns' spaces are not looked at."""
        start, deadline = len(self.drawn), time.monotonic() + _SECONDS
        while not re.search(pattern, _plain(self.drawn[start:])):
            assert time.monotonic() < deadline, f"not drawn: {pattern}\n{_plain(self.drawn)}"
            if select.select([self._terminal], [], [], 0.2)[0]:
                self.drawn += os.read(self._terminal, 65_536).decode()


def id_to_repeat(message: str) -> str:
    """The request id in what a mutation of unknown outcome says."""
    before, told, request_id = message.partition(_UNKNOWN)
    assert before.endswith("; ") and told
    return request_id


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split())
