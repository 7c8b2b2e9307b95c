"""Server-Sent Events as a browser reads them, over the standard library."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit


class Event(NamedTuple):
    """One event; ``cursor`` is its id."""

    cursor: str
    name: str
    data: Any


@contextmanager
def events(url: str, last_event_id: str | None = None, **query: str) -> Iterator[Iterator[Event]]:
    """Reads /events of a backend until the end of the block, which has 30 s; 20 s without an event fail."""
    deadline = time.monotonic() + 30
    connection = HTTPConnection(urlsplit(url).netloc, timeout=20)
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    connection.request("GET", f"/events?{urlencode(query)}", headers=headers)
    try:
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers.get_content_type() == "text/event-stream"
        yield _read(answer, deadline)
    finally:
        connection.close()


def changes(stream: Iterator[Event], until: int) -> list[int]:
    """The revisions that a stream tells up to one."""
    told = []
    for event in stream:
        if event.name == "change":
            told.append(event.data["entry"]["revision"])
            if told[-1] >= until:
                break
    return told


def get_json(url: str, path: str, **query: str) -> tuple[int, Any]:
    """Status and answer of a GET; None unless it is JSON."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request("GET", f"{path}?{urlencode(query)}")
        answer = connection.getresponse()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.load(answer) if is_json else None
    finally:
        connection.close()


def _read(answer: HTTPResponse, deadline: float) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in iter(answer.readline, b""):
        assert time.monotonic() < deadline, "what was awaited did not come"
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}
