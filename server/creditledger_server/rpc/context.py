"""What every unary method needs from its call."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from grpc.aio import ServicerContext

from ..domain.refusal import Refused

Context = ServicerContext[Any, Any]
T = TypeVar("T")


def deadline_of(context: Context, default_seconds: float) -> float:
    """When the caller stops waiting, in seconds of the event loop's clock."""
    remaining: float | None = (
        context.time_remaining()
    )  # None for a call without a deadline, whatever its stub says
    return asyncio.get_running_loop().time() + (default_seconds if remaining is None else remaining)


def accepted(answer: T | Refused) -> T:
    """The answer, unless it is a refusal: that is raised."""
    if isinstance(answer, Refused):
        raise answer
    return answer
