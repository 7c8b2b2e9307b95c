"""Many calls at once over several servers, in one process: the servers are real ones, and race each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from ledger_calls import METHODS, failure_of, path_of

Outcome = tuple[str, Any]
""""OK" and the response, or the reason and the failure."""


def call_all(targets: Sequence[str], requests: Sequence[Message], at_once: int = 64) -> list[Outcome]:
    """Sends the requests over the targets in turn, so many at once; their outcomes, in their order."""
    return asyncio.run(_call_all(targets, requests, at_once))


def accepted(outcomes: Iterable[Outcome]) -> list[Any]:
    """The responses among outcomes."""
    return [answer for word, answer in outcomes if word == "OK"]


async def _call_all(targets: Sequence[str], requests: Sequence[Message], at_once: int) -> list[Outcome]:
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(target, options) for target in targets]
    gate = asyncio.Semaphore(at_once)

    async def one(place: int, request: Message) -> Outcome:
        async with gate:
            return await _call(channels[place % len(channels)], request)

    try:
        return await asyncio.gather(*(one(place, request) for place, request in enumerate(requests)))
    finally:
        for channel in channels:
            await channel.close()


async def _call(channel: grpc.aio.Channel, request: Message) -> Outcome:
    kind = type(request)
    response = message_factory.GetMessageClass(METHODS[kind.__name__].output_type)
    method = channel.unary_unary(
        path_of(kind.__name__),
        request_serializer=kind.SerializeToString,
        response_deserializer=response.FromString,
    )
    try:
        return "OK", await method(request, timeout=60)
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        return failure.reason, failure
