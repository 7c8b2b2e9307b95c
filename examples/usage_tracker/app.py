"""Shows users their credits as they are spent: what the ledger tells, as Server-Sent Events, and the page that listens.

    make run
    make tracker

Then open http://127.0.0.1:8081/?user=user-1, and charge that user from another shell:

    .venv/bin/creditledger grant user-1 100
    .venv/bin/creditledger deduct user-1 script_generation

Every event has the ledger's cursor as its id. A browser whose connection broke sends the last id with its next request,
so it gets what it has missed, once, also from another process of this backend or of the ledger: nothing is kept here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from creditledger import (
    Account,
    AccountNotFound,
    AsyncCreditLedgerClient,
    Balance,
    CreditLedgerError,
    CursorAhead,
    CursorExpired,
    CursorInvalid,
    Entry,
    EntryKind,
    LimitState,
    Period,
    Usage,
    WatchUsageResponse,
)
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

log = logging.getLogger("usage_tracker")

PAGE = Path(__file__).parent / "page"
RECENT = 6
"""How many entries a page begins with."""
HOUR = timedelta(hours=1)
LONGEST_DAY = 25
"""Hours, where clocks are put back."""


def signed_in(request: Request) -> str:
    """Stands for your authentication. Take the user from the session, never from what the browser can choose."""
    return request.query_params.get("user", "user-1")


async def events(request: Request) -> Response:
    """What happens to the user's account, from now on or after the last event that the browser got."""
    cursor = request.headers.get("Last-Event-ID") or request.query_params.get("cursor")
    stream = tell(request.app.state.ledger, signed_in(request), cursor)
    # no: that proxies such as nginx pass every event on at once.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def tell(ledger: AsyncCreditLedgerClient, user: str, cursor: str | None) -> AsyncIterator[str]:
    """The events of one browser. They go on while the ledger restarts; if they end, the browser asks again."""
    yield "retry: 1000\n\n"
    try:
        while True:
            try:
                async with ledger.watch_usage(user, cursor=cursor) as watch:
                    async for message in watch:
                        yield await event_of(ledger, user, message)
                return  # The client was closed: this backend stops.
            except (CursorInvalid, CursorAhead, CursorExpired):
                # It is of a ledger before a backup of it was restored, say: begin anew, with a snapshot.
                cursor = None
    except AccountNotFound:
        yield event("unopened", {})
    except CreditLedgerError as error:
        log.warning("the events of %s ended: %s", user, error)


async def event_of(ledger: AsyncCreditLedgerClient, user: str, message: WatchUsageResponse) -> str:
    """The event that tells one message of the ledger."""
    match message.WhichOneof("event"):
        case "snapshot":
            told = message.snapshot
            data = await snapshot(ledger, told.account, told.balance, told.limits)
            return event("snapshot", data, message.cursor)
        case "change" if message.change.entry.kind != EntryKind.ENTRY_KIND_LEVEL_CHANGED:
            change = message.change
            data = {
                "entry": entry_json(change.entry),
                "balance": balance_json(change.entry.balance),
                "limits": limits_json(change.limits),
            }
            return event("change", data, message.cursor)
        case "change" | "summary":
            # Another level has other limits, and a summary, of what came too fast for this browser, tells none.
            now = await ledger.get_balance(user)
            return event(
                "snapshot", await snapshot(ledger, now.account, now.balance, now.limits), message.cursor
            )
        case _:  # All that was missed has been told, or a heartbeat: nothing new, but a sign of life.
            return event("alive", {}, message.cursor)


def event(name: str, data: dict[str, Any], cursor: str | None = None) -> str:
    """An event as it travels. Without a cursor the browser keeps the one that it has."""
    return (f"id: {cursor}\n" if cursor else "") + f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def snapshot(
    ledger: AsyncCreditLedgerClient, account: Account, balance: Balance, limits: Iterable[LimitState]
) -> dict[str, Any]:
    """All that the page shows but the chart, as of the account's revision."""
    info, recent = await asyncio.gather(
        ledger.get_server_info(),
        ledger.list_entries(account.account_id, to_revision=account.revision, page_size=RECENT),
    )
    return {
        "account": account.account_id,
        "level": account.level,
        "revision": account.revision,
        "decimals": info.decimals,
        "balance": balance_json(balance),
        "limits": limits_json(limits),
        "recent": [entry_json(entry) for entry in recent.entries],
    }


# What browsers are told is chosen field by field: an entry also has request ids, grants and your own metadata.


def balance_json(balance: Balance) -> dict[str, int]:
    return {"available": balance.available, "reserved": balance.reserved}


def limits_json(limits: Iterable[LimitState]) -> list[dict[str, Any]]:
    return [
        {
            "operation": limit.operation,
            "period": Period.Name(limit.period).removeprefix("PERIOD_").lower(),
            "limit": limit.limit,
            "used": limit.used,
            "reset": limit.reset_time.ToJsonString() if limit.HasField("reset_time") else None,
        }
        for limit in limits
    ]


def entry_json(entry: Entry) -> dict[str, Any]:
    return {
        "revision": entry.revision,
        "kind": EntryKind.Name(entry.kind).removeprefix("ENTRY_KIND_").lower(),
        "operation": entry.operation,
        "amount": entry.amount,
        "cost": entry.cost,
        "failed": entry.usage.outcome == Usage.OUTCOME_FAILED,
        "time": entry.create_time.ToJsonString(),
    }


async def usage(request: Request) -> Response:
    """Credits by operation in each hour from ``since``, where an hour of the user's day begins, until now."""
    try:
        since = datetime.fromisoformat(request.query_params["since"]).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        raise HTTPException(400, "since: a time such as 2026-11-22T17:00:00Z") from None
    now = datetime.now(UTC)
    hours = [hour for n in range(LONGEST_DAY) if (hour := since + n * HOUR) <= now]
    ledger: AsyncCreditLedgerClient = request.app.state.ledger
    sums = await asyncio.gather(
        *(ledger.summarize_usage(signed_in(request), start_time=hour, end_time=hour + HOUR) for hour in hours)
    )
    return JSONResponse(
        [
            {"start": hour.isoformat(), "credits": {row.operation: row.credits for row in summary.rows}}
            for hour, summary in zip(hours, sums, strict=True)
        ]
    )


def unavailable(request: Request, error: Exception) -> Response:
    """The page asks again by itself."""
    log.warning("%s was not answered: %s", request.url.path, error)
    return JSONResponse({"error": "UNAVAILABLE"}, 503)


def backend(target: str) -> Starlette:
    """The application, for the ledger at ``target``."""

    @asynccontextmanager
    async def connected(app: Starlette) -> AsyncIterator[None]:
        # Here, because a client belongs to the event loop in which it is created.
        async with AsyncCreditLedgerClient(target) as app.state.ledger:
            yield

    routes = [
        Route("/events", events),
        Route("/usage", usage),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    return Starlette(routes=routes, lifespan=connected, exception_handlers={CreditLedgerError: unavailable})


class Server(uvicorn.Server):
    """Ends the streams of events when it stops: they have no end of their own, and it would wait for them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert isinstance(self.config.app, Starlette)
        await self.config.app.state.ledger.close()
        await super().shutdown(sockets)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ledger", default="127.0.0.1:50051", metavar="HOST:PORT", help="the creditledger server"
    )
    parser.add_argument(
        "--port", default=8081, type=int, help="where to listen on 127.0.0.1; 0 takes a free one"
    )
    options = parser.parse_args()
    config = uvicorn.Config(backend(options.ledger), log_level="warning", timeout_graceful_shutdown=5)
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        Server(config).run(sockets=[listener])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
