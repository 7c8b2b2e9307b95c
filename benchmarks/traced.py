"""A server that knows where its CPU time goes: python -m benchmarks.traced FILE serve ...

Functions of the server are wrapped before it starts; on SIGUSR1 it writes what it has counted so far to FILE. The time
of a phase is that of its functions without that of phases called from within. Of coroutines only the steps count,
not what they wait for. Each entry into a phase costs about 1 µs itself, which the phases share.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from pathlib import Path
from typing import Any, Final

import grpc

PROTOBUF: Final = "protobuf: bytes to messages and back"
PHASES: Final = (
    ("rpc.credit_ledger", "CreditLedgerService.Deduct", "conversion: validation, commands, answers"),
    ("rpc.credit_ledger", "CreditLedgerService.BatchDeduct", "conversion: validation, commands, answers"),
    ("ledger.lane", "LaneGroup.submit", "queue: lanes and tickets"),
    ("ledger.lane", "Lane.run", "queue: lanes and tickets"),
    ("ledger.writer", "Writer.serve", "queue: lanes and tickets"),
    ("ledger.writer", "wanted", "load: lock, accounts, request ids"),
    ("ledger.writer", "lock_and_load", "load: lock, accounts, request ids"),
    ("ledger.writer", "_decide_round", "decide: rules, entries, hashes"),
    ("ledger.writer", "write_and_commit", "write and commit: arrays, statements"),
    ("watch.feed", "Feed.committed", "watchers"),
)
"""Where which phase is: module and function of the server. The rest of the process is gRPC and the event loop."""

_spent: dict[str, int] = defaultdict(int)  # nanoseconds
_stack: list[str] = []
_since = 0


def _enter(phase: str) -> None:
    global _since
    now = time.thread_time_ns()
    if _stack:
        _spent[_stack[-1]] += now - _since
    _stack.append(phase)
    _since = now


def _leave() -> None:
    global _since
    now = time.thread_time_ns()
    _spent[_stack.pop()] += now - _since
    _since = now


@types.coroutine
def _stepped(coroutine: Coroutine[Any, Any, Any], phase: str) -> Generator[Any, Any, Any]:
    """Drives a coroutine and counts the time of its steps."""
    step: Callable[..., Any] = coroutine.send
    argument: Any = None
    while True:
        _enter(phase)
        try:
            awaited = step(argument)
        except StopIteration as end:
            return end.value
        finally:
            _leave()
        try:
            argument = yield awaited
            step = coroutine.send
        except BaseException as error:
            step, argument = coroutine.throw, error


def _wrapped(function: Callable[..., Any], phase: str) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        _enter(phase)
        try:
            return function(*arguments, **options)
        finally:
            _leave()

    @wraps(function)
    async def step(*arguments: Any, **options: Any) -> Any:
        return await _stepped(function(*arguments, **options), phase)

    return step if inspect.iscoroutinefunction(function) else call


def _wrap_all() -> None:
    for module_name, path, phase in PHASES:
        owner, name = found(module_name, path)
        setattr(owner, name, _wrapped(getattr(owner, name), phase))


def found(module_name: str, path: str) -> tuple[Any, str]:
    """The module or class that has a function of the server, and its name there."""
    owner: Any = importlib.import_module(f"creditledger_server.{module_name}")
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def _wrap_protobuf() -> None:
    make = grpc.unary_unary_rpc_method_handler

    def handler(behavior: Any, request_deserializer: Any = None, response_serializer: Any = None) -> Any:
        return make(
            behavior, _wrapped(request_deserializer, PROTOBUF), _wrapped(response_serializer, PROTOBUF)
        )

    grpc.unary_unary_rpc_method_handler = handler


def _write_on_signal(file: Path) -> None:
    def write(_number: int, _frame: object) -> None:
        total = time.process_time_ns()
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({"total": total, "phases": _spent}))
        os.replace(fresh, file)

    signal.signal(signal.SIGUSR1, write)


def main() -> None:
    """Serves, traced."""
    file = Path(sys.argv.pop(1))
    _wrap_protobuf()
    _wrap_all()
    _write_on_signal(file)
    from creditledger_server.cli import main as command

    command()


if __name__ == "__main__":
    main()
