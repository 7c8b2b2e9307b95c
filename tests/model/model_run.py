"""The long campaign: ``make model STEPS=100000 SEED=7``. The exit status is 1 unless the ledger is as the model says.

Every step has choices of its own, made from the seed, the example and the number of the step. So an example can be
run again alone, and a failing one without the steps that its failure does not need: that is how it is shrunk.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ledger_harness import Postgres, postgres_dsn
from model_example import Example
from model_floors import too_seldom
from model_looks import step
from model_world import World, world

STEPS_PER_EXAMPLE = 200
EXAMPLES_PER_WORLD = 60
SHRINK_SECONDS = 60.0
MOST_FINDINGS = 5
TRACE_WIDTH = 2_000


@dataclass
class Finding:
    """An example that failed."""

    example: int
    steps: list[int]
    error: Exception
    trace: list[str]

    @property
    def signature(self) -> str:
        """What failed, without names and numbers: findings with the same one are told once."""
        lines = [line.split(": the model says")[0] for line in str(self.error).splitlines()]
        words = [lines[0].split()[0] if lines else "", *lines[1:]]
        return type(self.error).__name__ + re.sub(r"\d+", "", " ".join(words))


@dataclass
class Campaign:
    """What a run has done so far."""

    seed: int
    steps: int = 0
    examples: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    cases: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    runs: int = 0

    def run(self, on: World, number: int, steps: list[int]) -> Finding | None:
        """Runs an example with those steps; returns how it failed."""
        self.runs += 1
        example = Example(on, f"e{self.runs}-", random.Random(f"{self.seed}/{number}"))
        done: list[int] = []
        try:
            for each in steps:
                done.append(each)
                self.rules[step(example, random.Random(f"{self.seed}/{number}/{each}"))] += 1
            example.draw = random.Random(0)
            example.end()
        except Exception as error:  # whatever breaks is a finding
            return Finding(number, done, error, example.trace)
        finally:
            example.leave()
            self.calls += example.called
            self.cases += example.model.notes
        self.steps += len(steps)
        self.examples += 1
        return None

    def shrink(self, on: World, finding: Finding) -> Finding:
        """The same failure with fewer steps."""
        deadline = time.monotonic() + SHRINK_SECONDS
        size = len(finding.steps) // 2
        while size:
            for first in range(0, len(finding.steps), size):
                fewer = finding.steps[:first] + finding.steps[first + size :]
                if time.monotonic() > deadline or on.spent:
                    return finding
                smaller = self.run(on, finding.example, fewer)
                if smaller and smaller.signature == finding.signature:
                    finding = smaller
                    break
            else:
                size //= 2
            size = min(size, len(finding.steps))
        return finding

    def explore(self, on: World, number: int) -> None:
        """Runs an example and keeps what it found, if that is new."""
        finding = self.run(on, number, list(range(STEPS_PER_EXAMPLE)))
        if finding and finding.signature not in self.findings:
            finding = self.shrink(on, finding)
            self.findings[finding.signature] = finding
            _tell_finding(self.seed, finding)

    def told(self, seconds: float) -> str:
        """The result in one line."""
        rules = ",".join(f"{name}:{count}" for name, count in sorted(self.rules.items()))
        calls = ",".join(f"{name}:{count}" for name, count in sorted(self.calls.items()))
        cases = ",".join(f"{name.replace(' ', '_')}:{count}" for name, count in sorted(self.cases.items()))
        return (
            f"RESULT seed={self.seed} steps={self.steps} examples={self.examples} seconds={seconds:.0f}"
            f" rules={rules} calls={calls} cases={cases} mismatches={len(self.findings)}"
        )


def main() -> int:
    """Runs what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, help="of all choices; drawn and printed unless it is given")
    parser.add_argument("--example", type=int, help="runs only this one")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    campaign, begin = Campaign(seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, postgres_dsn(Path(folder)) as dsn:
        postgres = Postgres(dsn)
        if options.example is None:
            _explore_all(campaign, postgres, -(-options.steps // STEPS_PER_EXAMPLE))
        else:
            with world(postgres) as on:
                campaign.explore(on, options.example)
        postgres.close()
    seldom = [] if options.example is not None else too_seldom(campaign.rules, campaign.cases, campaign.steps)
    _say("".join(f"  too seldom: {line}\n" for line in seldom) + campaign.told(time.monotonic() - begin))
    return 1 if campaign.findings or seldom else 0


def _explore_all(campaign: Campaign, postgres: Postgres, examples: int) -> None:
    number = 0
    while number < examples:
        with world(postgres) as on:
            end = min(examples, number + EXAMPLES_PER_WORLD)
            while number < end and not on.spent:
                campaign.explore(on, number)
                number += 1
                if len(campaign.findings) >= MOST_FINDINGS:
                    return


def _tell_finding(seed: int, finding: Finding) -> None:
    trace = "".join(f"    {line[:1_000]}\n" for line in finding.trace)
    _say(
        f"MISMATCH seed={seed} example={finding.example} steps={len(finding.steps)}\n{trace}  {finding.error}"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
