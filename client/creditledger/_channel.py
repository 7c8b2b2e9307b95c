# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""How a client's channel behaves: retries, keepalive, reconnects and message sizes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_RETRY_POLICY = {
    "maxAttempts": 5,  # gRPC caps clients at 5
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    # CANCELLED, when it comes from the server: that is how gRPC ends the calls that a server which shuts down has not
    # accepted yet. One that the caller cancels is not sent again.
    # Never DEADLINE_EXCEEDED: the caller's time is up, and what to do then is the caller's to decide.
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "creditledger.v1.CreditLedger"},
                {"service": "creditledger.v1.LedgerAdmin"},
            ],
            "retryPolicy": _RETRY_POLICY,
        },
        # The more specific name wins, so this one has no retry policy: a watch resumes from its cursor.
        {"name": [{"service": "creditledger.v1.CreditLedger", "method": "WatchUsage"}]},
    ],
    # A failure takes a token, a success returns a tenth; below half there are no retries. So about a hundred
    # calls in flight outlive a server's restart, and a lasting outage gets next to no extra load.
    "retryThrottling": {"maxTokens": 500, "tokenRatio": 0.1},
}

_MIB = 1024 * 1024

_OPTIONS: dict[str, Any] = {
    "grpc.service_config": json.dumps(_SERVICE_CONFIG),
    # Find a dead connection under a waiting call or an open watch. An idle channel sends no pings: a server
    # or proxy that does not expect them would answer with GOAWAY too_many_pings.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.http2.max_pings_without_data": 0,
    # The defaults (1 s, rising to 120 s) would let most retries fail before the channel even tries to connect.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 5_000,
    # A call larger than this buffer (default 256 KiB) is not retried; 4 MiB is the largest a server takes.
    "grpc.per_rpc_retry_buffer_size": 5 * _MIB,
    # A page of 1,000 entries with full metadata is larger than the default of 4 MiB.
    "grpc.max_receive_message_length": 64 * _MIB,
}


def channel_options(overrides: Iterable[tuple[str, Any]] = ()) -> list[tuple[str, Any]]:
    """The options of a client's channel; those of `overrides` replace the default of the same name."""
    return list({**_OPTIONS, **dict(overrides)}.items())
