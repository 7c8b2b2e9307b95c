"""What a benchmark ran on: the machine, the versions, and what a flush to disk and a loop of Python cost there."""

from __future__ import annotations

import os
import platform
import time
import timeit
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from . import ghz
from .site import Site

FLUSHES = 200
_PAGE = bytes(8192)


def describe(site: Site) -> dict[str, Any]:
    """All of it, as it goes into the results."""
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
            "kernel": f"{platform.system()} {platform.release()}",
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("grpcio", "protobuf", "psycopg", "creditledger-server")},
            "postgres": site.execute("SHOW server_version")[0][0],
            "ghz": ghz.version() if ghz.available() else None,
        },
        "fsync_us": round(fsync_us(site.data), 1),
        "loop_us": round(loop_us(), 1),
    }


def loop_us() -> float:
    """Microseconds (median) for a loop of 1,000 calls: two builds of one version of Python differ by half."""
    return 1e6 * median(timeit.repeat(_loop, number=1, repeat=200))


def _loop() -> None:
    for number in range(1_000):
        _pair(number)


def _pair(number: int) -> tuple[int, list[int]]:
    return number, [number]


def fsync_us(folder: Path) -> float:
    """Microseconds (median) that writing 8 KiB and flushing it takes in the file system of ``folder``."""
    path = folder / "fsync.probe"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, _PAGE * FLUSHES, 0)
        os.fsync(file)
        return 1e6 * median(_flush(file, number) for number in range(FLUSHES))
    finally:
        os.close(file)
        path.unlink()


def _flush(file: int, number: int) -> float:
    begin = time.perf_counter()
    os.pwrite(file, _PAGE, number * len(_PAGE))
    os.fdatasync(file)
    return time.perf_counter() - begin


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
