# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""What the keywords of methods become in request messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def given_or_drawn(request_id: str | None) -> str:
    """The request id of a call."""
    # Not for "": an id that came out empty is a bug to be told of, not to be papered over with one that
    # protects nothing.
    return str(uuid4()) if request_id is None else request_id


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time of a request; ValueError without a time zone."""
    if time is None:
        return None
    if time.utcoffset() is None:
        # protobuf would silently take it as UTC.
        raise ValueError(f"{time!r} has no time zone")
    message = Timestamp()
    message.FromDatetime(time)
    return message


def duration(span: timedelta | None) -> Duration | None:
    """A span of a request."""
    if span is None:
        return None
    message = Duration()
    message.FromTimedelta(span)
    return message


def several(names: str | Iterable[str]) -> Iterable[str]:
    """The names of a request; one may stand alone."""
    # A lone str is an iterable of its characters, each of them a legal name.
    return [names] if isinstance(names, str) else names
