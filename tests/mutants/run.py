"""``make mutants``: whether each seeded bug makes the test fail that is there to find it.

The tree is copied, one bug of the table at a time is put into the copy, and its tests run there. Words on the command
line choose the mutants whose names contain one of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from creditledger_server.embedded import embedded_postgres

from .table import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent.parent
COPIED = ("client", "migrations", "server", "tests", "catalog.example.toml", "pyproject.toml")
JOBS = 2
LONGEST_RUN = 180.0
"""Seconds until a run of tests is given up: a mutant that makes a test hang must fail it instead."""

VERSION_FILE = "server/creditledger_server/__init__.py"
MARK = "+mutants"

# What is imported comes from the copy, and so does what a spawned server is made of: it tells the marked version.
PROBE = f"""
import creditledger, creditledger_migrations, creditledger_server, os, pathlib
from creditledger import CreditLedgerClient
from ledger_harness import Postgres, running_server
for module in (creditledger, creditledger_migrations, creditledger_server):
    assert pathlib.Path(module.__file__).is_relative_to(pathlib.Path.cwd()), module.__file__
postgres = Postgres(os.environ["CREDITLEDGER_TEST_DSN"])
dsn = postgres.create_database()
with running_server(dsn) as server, CreditLedgerClient(server.target) as ledger:
    version = ledger.get_server_info().server_version
    assert version.endswith({MARK!r}), version
postgres.drop_database(dsn)
postgres.close()
"""


class Result(NamedTuple):
    """How a run of tests went: ``failures`` are those of tests that failed, not of what could not begin."""

    passed: bool
    failures: list[str]
    output: str


class Copy:
    """A copy of the tree to run tests in, against the Postgres of ``dsn``."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self._folder = folder
        folder.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, folder / name)
        with (folder / VERSION_FILE).open("a") as version:
            version.write(f"__version__ += {MARK!r}\n")
        packages = (folder / name for name in ("server", "client", "migrations", "tests/support"))
        self._environment = os.environ | {
            "CREDITLEDGER_TEST_DSN": dsn,
            "PYTHONPATH": os.pathsep.join(map(str, packages)),
        }

    def prove(self) -> None:
        """Asserts that what runs here is the copy."""
        status, output = self._run([sys.executable, "-c", PROBE])
        assert status == 0, output

    def test(self, tests: Sequence[str], *options: str) -> Result:
        """Runs tests on the copy as it is."""
        report = self._folder / "report.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        status, output = self._run([*command, *options, *tests])
        if status not in (0, 1):
            return Result(False, [], output)
        failures = [
            f"{case.get('name')}: {failure.get('message', '').splitlines()[0]}"
            for case in ElementTree.parse(report).iter("testcase")
            for failure in case.iter("failure")
        ]
        return Result(status == 0, failures, output)

    def test_mutated(self, mutant: Mutant) -> Result:
        """Runs a mutant's tests on the mutated copy, which is the original again afterwards."""
        file = self._folder / mutant.file
        original = file.read_text()
        try:
            self._write(file, mutant.mutated(original))
            return self.test(mutant.tests, "--exitfirst")
        finally:
            self._write(file, original)

    def _write(self, file: Path, text: str) -> None:
        file.write_text(text)
        # It is taken for current by its size and the second of its time.
        Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(LONGEST_RUN)
            except subprocess.TimeoutExpired:
                status = -1
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            return status, output.read()


class Verdict(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    caught: bool
    seconds: float
    told: str

    def __str__(self) -> str:
        word = "caught  " if self.caught else "SURVIVED"
        return f"{word} {self.seconds:5.1f} s  {self.mutant.name}: {self.told}"


def judge(mutant: Mutant, copy: Copy) -> Verdict:
    """Runs a mutant's tests until one fails, as often as the mutant allows."""
    begin = time.monotonic()
    result = Result(True, [], "")
    for _ in range(mutant.tries):
        result = copy.test_mutated(mutant)
        if not result.passed:
            break
    seconds = time.monotonic() - begin
    if result.failures:
        return Verdict(mutant, True, seconds, result.failures[0][:160])
    told = "its tests pass" if result.passed else f"no test could tell\n{result.output[-2_000:]}"
    return Verdict(mutant, False, seconds, told)


def main() -> int:
    """Prints a verdict per mutant and ``caught=N/N``; returns the exit status, 0 only if all are caught."""
    mutants = _chosen()
    if stale := [mutant.name for mutant in mutants if not mutant.applies(ROOT)]:
        print(*(f"no longer applies: {name}" for name in stale), sep="\n")
        return 1
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="creditledger-mutants-")))
        copies = [_copy(folder / f"copy-{number}", stack) for number in range(JOBS)]
        pool = stack.enter_context(ThreadPoolExecutor(JOBS))
        copies[0].prove()
        return _judge_all(mutants, copies, pool) if _tests_pass(mutants, copies, pool) else 1


def _copy(folder: Path, stack: ExitStack) -> Copy:
    # Each with a Postgres of its own: in a shared one the transactions of one hold up the watchers of the other.
    dsn = stack.enter_context(embedded_postgres(folder.with_suffix(".data"), lambda _line: None))
    return Copy(folder, dsn)


def _chosen() -> list[Mutant]:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("words", nargs="*", help="only mutants whose names contain one of these")
    words = parser.parse_args().words
    return [each for each in MUTANTS if not words or any(word in each.name for word in words)]


def _tests_pass(mutants: Sequence[Mutant], copies: Sequence[Copy], pool: ThreadPoolExecutor) -> bool:
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    begin = time.monotonic()
    # Whole files to each copy, for what the tests of a file share.
    files = sorted({test.partition("::")[0] for test in tests})
    shares = [
        [test for test in tests if files.index(test.partition("::")[0]) % len(copies) == number]
        for number in range(len(copies))
    ]
    results = list(pool.map(lambda copy, share: copy.test(share) if share else None, copies, shares))
    print(f"unmutated: {len(tests)} tests in {time.monotonic() - begin:.1f} s", flush=True)
    for result in results:
        if result is not None and not result.passed:
            print(result.output)
    return all(result is None or result.passed for result in results)


def _judge_all(mutants: Sequence[Mutant], copies: Sequence[Copy], pool: ThreadPoolExecutor) -> int:
    free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def judge_on_a_free_copy(mutant: Mutant) -> bool:
        copy = free.get()
        try:
            verdict = judge(mutant, copy)
        finally:
            free.put(copy)
        print(verdict, flush=True)
        return verdict.caught

    caught = sum(pool.map(judge_on_a_free_copy, mutants))
    print(f"caught={caught}/{len(mutants)}")
    return 0 if caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
