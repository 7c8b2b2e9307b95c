"""Runs the faults: ``make faults``, ``make faults-long``. The exit status is 1 unless all pass.

Most faults leave the machine idle for most of the time, so two of them run at once; those that load it run alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from fault_list import FAULTS
from fault_run import Result, run_fault
from slow_run import run_slow_readers
from watch_run import WATCH_FAULTS, run_watchers

Run = Callable[[int], Result]
"""Runs a fault with a seed."""

RUNS: dict[str, Run] = {
    **{fault.name: partial(run_fault, fault) for fault in FAULTS},
    **{fault.name: partial(run_watchers, fault) for fault in WATCH_FAULTS},
    "slow_readers": run_slow_readers,
}

ALONE = {"overload", "slow_readers", *(fault.name for fault in WATCH_FAULTS)}
AT_ONCE = 2


def main() -> int:
    """Runs what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(RUNS))
    parser.add_argument(
        "--seed", type=int, help="of all random choices; drawn and printed unless it is given"
    )
    parser.add_argument("--minutes", type=float, help="cycle through the faults with new seeds for so long")
    options = parser.parse_args()
    chosen = options.faults or list(RUNS)
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    begin = time.monotonic()
    if options.minutes is None:
        results = _run_all(chosen, seed)
    else:
        results = [_tell(_run(*each)) for each in _endless(chosen, seed, options.minutes)]
    return _summarise(results, seed, time.monotonic() - begin)


def _run_all(faults: list[str], seed: int) -> list[Result]:
    """Each fault once."""
    together = [name for name in faults if name not in ALONE]
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        results = [_tell(result) for result in pool.map(_run, together, [seed] * len(together))]
    return results + [_tell(_run(name, seed)) for name in faults if name in ALONE]


def _endless(faults: list[str], seed: int, minutes: float) -> Iterator[tuple[str, int]]:
    """Faults in random order, with seeds drawn from the one given, until the time is over."""
    end, chance = time.monotonic() + minutes * 60, random.Random(seed)
    while time.monotonic() < end:
        for fault in chance.sample(faults, len(faults)):
            if time.monotonic() < end:
                yield fault, chance.randrange(1_000_000)


def _run(name: str, seed: int) -> Result:
    try:
        result = RUNS[name](seed)
    except Exception as error:  # one broken run must not hide what the others tell
        words = " ".join(str(error).split())[:500]
        result = Result(f"RESULT test={name} seed={seed} FAIL (the run broke: {error!r})", "FAIL", [words])
    return result


def _tell(result: Result) -> Result:
    for detail in result.details:
        sys.stdout.write(f"  {detail}\n")
    sys.stdout.write(f"{result.line}\n")
    sys.stdout.flush()
    return result


def _summarise(results: list[Result], seed: int, seconds: float) -> int:
    verdicts = Counter(result.verdict for result in results)
    sys.stdout.write(
        f"SUMMARY seed={seed} runs={len(results)} passed={verdicts['PASS']} failed={verdicts['FAIL']}"
        f" skipped={verdicts['SKIP']} seconds={seconds:.0f}\n"
    )
    return 1 if verdicts["FAIL"] or not verdicts["PASS"] else 0


if __name__ == "__main__":
    sys.exit(main())
