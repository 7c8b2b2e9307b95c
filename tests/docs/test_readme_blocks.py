"""Every program and command of the README's flow, run in order against a real server, prints what the README shows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from ledger_harness import CATALOG, ROOT, ServerProcess

README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGET = "127.0.0.1:50051"
COMMANDS = {"creditledger": "creditledger.cli", "creditledger-server": "creditledger_server.cli"}
"""What `make run` installs, and the module behind it."""

VOLATILE = [
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r'"hash": "[A-Za-z0-9+/]{43}="', '"hash": <hash>'),
    (r'"cursor": "[A-Za-z0-9_-]+"', '"cursor": <cursor>'),
    # Without grpcurl there are fewer.
    (r"accounts=\d+ entries=\d+", "<counts>"),
]
"""What differs from one run to the next, and what both sides are compared with instead."""


class Step(NamedTuple):
    """A command or a program, what it prints, and where the README has it."""

    line: int
    arguments: list[str]
    output: str

    @property
    def is_stream(self) -> bool:
        """Whether it is left running while the next step is made, and then ended with Ctrl-C."""
        return self.output.endswith("^C\n")


def test_every_block_prints_what_the_readme_shows(
    server: ServerProcess, dsn: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    shell = Shell(server.target, dsn, tmp_path)
    stream: Stream | None = None
    for step in _steps(README):
        with subtests.test(msg=f"README.md:{step.line}"):
            if "grpcurl" in step.arguments[-1] and shutil.which("grpcurl") is None:
                pytest.skip("grpcurl is not on PATH")
            if step.is_stream:
                stream = shell.start(step)
                continue
            shell.check(step, shell.run(step))
        if stream is not None:
            with subtests.test(msg=f"README.md:{stream.step.line}"):
                shell.check(stream.step, stream.output())
            stream = None


def test_flow_of_the_readme_is_there() -> None:
    steps = _steps(README)
    commands = " ".join(" ".join(step.arguments) for step in steps)
    for word in (
        "OpenAccount",
        "GrantCredits",
        "CanPerform",
        "/Deduct",
        "WatchUsage",
        "verify",
        "watch_usage(",
    ):
        assert word in commands
    assert sum(step.is_stream for step in steps) == 1


class Shell:
    """Runs steps in a folder that looks like the repository after ``make run``, with a server of the test's own."""

    def __init__(self, target: str, dsn: str, folder: Path) -> None:
        self._target = target
        self._folder = folder
        self._environment = os.environ | {
            "CREDITLEDGER_DATABASE_URL": dsn,
            "CREDITLEDGER_TARGET": target,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        (folder / ".venv/bin").mkdir(parents=True)
        for name, module in COMMANDS.items():
            program = folder / ".venv/bin" / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
            program.chmod(0o755)
        (folder / CATALOG.name).symlink_to(CATALOG)

    def run(self, step: Step) -> str:
        """What a step prints; with what it says on stderr if it fails."""
        result = subprocess.run(
            self._arguments(step),
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return result.stdout if result.returncode == 0 else result.stdout + result.stderr

    def start(self, step: Step) -> Stream:
        """Leaves a step running once it has printed something."""
        file = self._folder / "stream"
        with file.open("w") as out:
            process = subprocess.Popen(
                self._arguments(step), cwd=self._folder, env=self._environment, stdout=out
            )
        stream = Stream(step, process, file)
        stream.await_lines(1)
        return stream

    def check(self, step: Step, output: str) -> None:
        """Fails with both texts unless the output is the one shown."""
        shown = _normalised(step.output.removesuffix("^C\n"))
        printed = _normalised(output.replace(self._target, TARGET))
        pattern = "".join(
            r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line) for line in shown.splitlines(True)
        )
        assert re.fullmatch(pattern, printed), f"shown:\n{shown}\nprinted:\n{printed}"

    def _arguments(self, step: Step) -> list[str]:
        return [part.replace(TARGET, self._target) for part in step.arguments]


class Stream(NamedTuple):
    """A step that is running."""

    step: Step
    process: subprocess.Popen[bytes]
    file: Path

    def output(self) -> str:
        """What it has printed when it has printed all that is shown, after which it is ended."""
        # A change is shown shortened, so it is whole when the number of messages is right, not that of lines.
        self.await_lines(self.step.output.splitlines().count("}"))
        self.process.send_signal(signal.SIGINT)
        self.process.wait(10)
        return self.file.read_text()

    def await_lines(self, messages: int) -> None:
        """Waits for so many messages, or gives up after a while."""
        deadline = time.monotonic() + 10
        while self.file.read_text().splitlines().count("}") < messages and time.monotonic() < deadline:
            time.sleep(0.02)


def _steps(page: str) -> list[Step]:
    blocks = list(_blocks(page))
    steps: list[Step] = []
    for (line, language, text), (_, next_language, next_text) in zip(
        blocks, [*blocks[1:], (0, "", "")], strict=True
    ):
        if language == "console":
            steps += _commands(line, text)
        elif language == "python":
            assert next_language == "text", f"README.md:{line}: no output follows"
            steps.append(Step(line, [sys.executable, "-c", text], next_text))
    return steps


def _blocks(page: str) -> Iterator[tuple[int, str, str]]:
    """The fenced blocks: the line of the first one within, the language, the text."""
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL):
        yield page.count("\n", 0, match.start(2)) + 1, match[1], match[2]


def _commands(line: int, text: str) -> Iterator[Step]:
    """The commands of a console block: each begins with ``$ `` and goes on while a quote or a backslash is open."""
    lines = text.splitlines()
    while lines:
        start = line + len(text.splitlines()) - len(lines)
        command = lines.pop(0)
        assert command.startswith("$ "), f"README.md:{start}: no command"
        while not _complete(command):
            command += "\n" + lines.pop(0)
        end = next((i for i, each in enumerate(lines) if each.startswith("$ ")), len(lines))
        output = "".join(f"{each}\n" for each in lines[:end])
        del lines[:end]
        # exec: so that Ctrl-C reaches the program itself.
        yield Step(start, ["sh", "-c", f"exec {command[2:]}"], output)


def _complete(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def _normalised(text: str) -> str:
    text = text.expandtabs()
    for pattern, name in VOLATILE:
        text = re.sub(pattern, name, text)
    return text
