"""A backend that charges for what it does: check, work, charge only on success; on the standard library alone.

    .venv/bin/python examples/backend/app.py
    curl -i 127.0.0.1:8080/scripts -H 'X-User: user-1' -H 'X-Request-Id: req-1' -d '{"topic": "credits"}'

The topic "fail" makes the work fail, to show what happens then.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from creditledger import (
    CanPerformResponse,
    Contention,
    CreditLedgerClient,
    CreditLedgerError,
    DeadlineExceeded,
    ErrorReason,
    ServerOverloaded,
    Unavailable,
    Usage,
)

log = logging.getLogger("backend")

OPERATION = "script_generation"
LEVELS = {"user-pro": "pro"}
"""Stands for the product's own records: the level of each user; the others are on "free"."""

STATUSES = {
    "INSUFFICIENT_CREDITS": 402,
    "ACCOUNT_FROZEN": 403,
    "ACCOUNT_CLOSED": 403,
    "REQUEST_ID_REUSED": 409,
    "LIMIT_EXCEEDED": 429,
    "FIELD_INVALID": 400,
}


class Draft(NamedTuple):
    """What the work brought."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Request:
    """``request_id`` is drawn once by the caller and the same on every retry; ``user`` is who has signed in."""

    request_id: str
    user: str
    topic: str


@dataclass(frozen=True)
class Response:
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """Work that succeeded, and the deduction that pays for it: a retry sends the very same one."""

    text: str
    charge: dict[str, Any]


class WorkFailed(Exception):
    """The work did not succeed; its attempt has been recorded and nothing charged."""


class Backend:
    """Answers requests for scripts. Threads may share it."""

    def __init__(self, ledger: CreditLedgerClient, write: Callable[[str], Draft]) -> None:
        self._ledger = ledger
        self._write = write
        # By user and request id. Keep it in your database, so that a retry finds it after a restart too.
        self._done: dict[tuple[str, str], Done] = {}

    def handle(self, request: Request) -> Response:
        """The answer to a request; to a retry the same one, charged once."""
        try:
            return self._handle(request)
        except WorkFailed as error:
            return Response(502, {"error": "WORK_FAILED", "message": str(error)})
        except CreditLedgerError as error:
            return _refusal(error)

    def _handle(self, request: Request) -> Response:
        key = request.user, request.request_id
        if key not in self._done:
            level = LEVELS.get(request.user, "free")
            check = self._ledger.can_perform(request.user, OPERATION, account_level=level)
            if not check.allowed:
                return _denial(check)
            # Of two that do the same work at the same time, the first to finish counts.
            self._done.setdefault(key, self._work(request, level))
        done = self._done[key]
        # Decides again, so it may still refuse: then the text stays here until the user can pay for it.
        charge = self._ledger.deduct(**done.charge)
        return Response(200, {"text": done.text, "cost": charge.cost, "available": charge.balance.available})

    def _work(self, request: Request, level: str) -> Done:
        charge: dict[str, Any] = {
            "account_id": request.user,
            "operation": OPERATION,
            "account_level": level,
        }
        usage = Usage(service="example-model")
        usage.metadata.update({"inputLength": len(request.topic)})
        start = time.monotonic()
        try:
            draft = self._write(request.topic)
        except Exception as error:
            usage.outcome = Usage.OUTCOME_FAILED
            usage.response_time.FromTimedelta(timedelta(seconds=time.monotonic() - start))
            self._record_failure(charge | {"usage": usage})
            raise WorkFailed("the script could not be written; nothing was charged") from error
        usage.response_time.FromTimedelta(timedelta(seconds=time.monotonic() - start))
        usage.metrics["tokens"] = draft.tokens
        usage.metadata.update({"outputLength": len(draft.text)})
        return Done(draft.text, charge | {"usage": usage, "request_id": request.request_id})

    def _record_failure(self, charge: dict[str, Any]) -> None:
        """Notes the attempt. Its id is drawn: the request's own stays free for a retry that succeeds."""
        try:
            self._ledger.deduct(**charge)
        except CreditLedgerError as error:
            log.warning("a failed attempt was not recorded: %s", error)


def write_script(topic: str) -> Draft:
    """Stands for the call of a language model."""
    if topic == "fail":
        raise ConnectionError("the model did not answer")
    return Draft(f"A script about {topic}.", tokens=100 + len(topic))


def _denial(check: CanPerformResponse) -> Response:
    denial = check.denials[0]
    reason = ErrorReason.Name(denial.reason).removeprefix("ERROR_REASON_")
    full = [limit for limit in check.limits if 0 <= limit.limit <= limit.used]
    wait = None
    if reason == "LIMIT_EXCEEDED" and full[0].HasField("reset_time"):
        wait = full[0].reset_time.ToDatetime() - check.decide_time.ToDatetime()
    return _error(STATUSES[reason], reason, denial.message, wait)


def _refusal(error: CreditLedgerError) -> Response:
    if isinstance(error, (Unavailable, DeadlineExceeded, ServerOverloaded, Contention)):
        # Whether it was charged may be unknown: the retry, with its same id, finds out.
        message = "please send the same request again"
        return _error(503, "UNAVAILABLE", message, error.retry_delay or timedelta(seconds=1))
    if error.reason not in STATUSES:
        log.error("the ledger refused: %s", error)
        return _error(500, "INTERNAL", "internal error", None)
    return _error(STATUSES[error.reason], error.reason, error.message, error.retry_delay)


def _error(status: int, reason: str, message: str, wait: timedelta | None) -> Response:
    headers = {} if wait is None else {"Retry-After": str(math.ceil(wait.total_seconds()))}
    return Response(status, {"error": reason, "message": message}, headers)


class Handler(BaseHTTPRequestHandler):
    """From HTTP to ``Backend.handle`` and back."""

    backend: Backend

    def do_POST(self) -> None:
        response = self._respond()
        body = json.dumps(response.body).encode()
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _respond(self) -> Response:
        if self.path != "/scripts":
            return _error(404, "NOT_FOUND", "there is only /scripts", None)
        try:
            # X-User stands for your authentication.
            user, request_id = self.headers["X-User"], self.headers["X-Request-Id"]
            topic = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["topic"]
            request = Request(request_id=request_id, user=user, topic=str(topic))
        except (TypeError, KeyError, ValueError):
            return _error(400, "BAD_REQUEST", 'send {"topic": ...} as JSON', None)
        if not (user and request_id):
            return _error(400, "BAD_REQUEST", "send the headers X-User and X-Request-Id", None)
        return self.backend.handle(request)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ledger", default="127.0.0.1:50051", metavar="HOST:PORT", help="the creditledger server"
    )
    parser.add_argument(
        "--port", default=8080, type=int, help="where to listen on 127.0.0.1; 0 takes a free one"
    )
    options = parser.parse_args()
    with CreditLedgerClient(options.ledger) as ledger:
        Handler.backend = Backend(ledger, write_script)
        with ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
            print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
