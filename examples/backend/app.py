"""A backend that charges for what it does: the two features of the implementation guide, on the standard library alone.

    .venv/bin/creditledger-server serve --migrate --catalog examples/backend/catalog.toml
    .venv/bin/python examples/backend/app.py
    curl -i 127.0.0.1:8080/voices -H 'X-User: user-1' -H 'X-Request-Id: req-1' -d '{"text": "Ada"}'
    curl -i 127.0.0.1:8080/chat -H 'X-User: user-1' -H 'X-Request-Id: req-2' -d '{"text": "Make it shorter."}'

A voice has a fixed price. It is reserved, the voice is made, and the reservation is committed: nobody else can spend
these credits meanwhile, and if the voice cannot be made they are given back.

A refinement costs what its tokens cost, which is known when it is done. Whether the user could pay for the longest one
is checked before, and the tokens are charged after; an attempt that fails is recorded and free.

The text "fail" makes the work fail, to show what happens then.
"""

from __future__ import annotations

import argparse
import functools
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
    CommitReservationResponse,
    CreditLedgerClient,
    CreditLedgerError,
    DeadlineExceeded,
    DeductResponse,
    ErrorReason,
    ReservationCommitted,
    Unavailable,
    Usage,
)

log = logging.getLogger("backend")

VOICE = "voice_creation"
CHAT = "chat_refinement"
ROUTES = {"/voices": VOICE, "/chat": CHAT}
MOST_TOKENS = 4_000
"""The most that one refinement takes; what the model is told too."""
COMMIT_SECONDS = 5.0
"""How long a user waits for a commit that is not answered."""
LEVELS = {"user-pro": "pro"}
"""Stands for the product's own records: the level of each user; the others are on "free"."""

STATUSES = {
    "FIELD_INVALID": 400,
    "INSUFFICIENT_CREDITS": 402,
    "RESERVATION_EXPIRED": 402,
    "ACCOUNT_FROZEN": 403,
    "ACCOUNT_CLOSED": 403,
    "RESERVATION_COMMITTED": 409,
    "RESERVATION_RELEASED": 409,
    "LIMIT_EXCEEDED": 429,
    "CONTENTION": 503,
    "DEADLINE_PASSED": 503,
    "SERVER_OVERLOADED": 503,
    "SHUTTING_DOWN": 503,
    "STORAGE_UNAVAILABLE": 503,
    "TOO_MANY_RESERVATIONS": 503,
}
"""What to tell users; docs/errors.md has all. What is not among them is a bug of this backend: 500, and a log entry."""


UNANSWERED = (Unavailable, DeadlineExceeded)
"""Also without a reason of the ledger's: it was not reached, or did not answer in time."""


class Made(NamedTuple):
    """What the work brought."""

    text: str
    tokens: int


Work = Callable[[str], Made]


@dataclass(frozen=True)
class Request:
    """``request_id`` is drawn once by the caller and the same on every retry; ``user`` is who has signed in."""

    operation: str
    request_id: str
    user: str
    text: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.operation, self.user, self.request_id

    @property
    def level(self) -> str:
        return LEVELS.get(self.user, "free")


@dataclass(frozen=True)
class Response:
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """Work that succeeded, and the call that charges for it: a retry makes the very same one, until it is known."""

    text: str
    charge: Callable[[], DeductResponse | CommitReservationResponse]


class WorkFailed(Exception):
    """The work did not succeed; ``usage`` tells what the attempt was."""

    def __init__(self, usage: dict[str, Any]) -> None:
        super().__init__("it could not be made; nothing was charged")
        self.usage = usage


class Denied(Exception):
    """The ledger would refuse the charge, so there is no work."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.body["message"])
        self.response = response


class Backend:
    """Makes voices and refinements. Threads may share it."""

    def __init__(self, ledger: CreditLedgerClient, create_voice: Work, refine: Work) -> None:
        self._ledger = ledger
        self._create_voice = create_voice
        self._refine = refine
        self._features = {VOICE: self._make_voice, CHAT: self._make_refinement}
        # By the key of the request. Keep it in your database, so that a retry finds it after a restart too.
        self._done: dict[tuple[str, str, str], Done] = {}

    def handle(self, request: Request) -> Response:
        """The answer to a request; to a retry the same one, charged once."""
        try:
            if request.key not in self._done:
                # Of two that do the same work at the same time, the first to finish counts.
                self._done.setdefault(request.key, self._features[request.operation](request))
            done = self._done[request.key]
            charge = done.charge()
            # Known now, so that a retry need not ask again.
            self._done[request.key] = Done(done.text, lambda: charge)
        except Denied as error:
            return error.response
        except WorkFailed as error:
            return _error(502, "WORK_FAILED", str(error), None)
        except CreditLedgerError as error:
            return _refusal(error)
        return Response(200, {"text": done.text, "cost": charge.cost, "available": charge.balance.available})

    def _make_voice(self, request: Request) -> Done:
        reservation = self._ledger.reserve(
            request.user,
            VOICE,
            account_level=request.level,
            request_id=request.request_id,
            commit_timeout=COMMIT_SECONDS,
        )
        done = None
        try:
            with reservation:
                made, usage = _work(self._create_voice, request)
                reservation.usage(**usage)
                done = Done(made.text, reservation.commit)
        except ReservationCommitted:
            raise  # The same request was here before, or at the same time.
        except CreditLedgerError:
            if done is not None:
                # Made, and perhaps not paid for. The credits stay reserved, and a retry sends the same commit again.
                self._done.setdefault(request.key, done)
            raise
        return Done(made.text, lambda: reservation.response)

    def _make_refinement(self, request: Request) -> Done:
        most = {"tokens": MOST_TOKENS}
        check = self._ledger.can_perform(request.user, CHAT, metrics=most, account_level=request.level)
        if not check.allowed:
            raise Denied(_denial(check))
        charge = functools.partial(self._ledger.deduct, request.user, CHAT, account_level=request.level)
        try:
            made, usage = _work(self._refine, request)
        except WorkFailed as error:
            _record(functools.partial(charge, usage=Usage(**error.usage, outcome=Usage.OUTCOME_FAILED)))
            raise
        # Decides again, so it may still refuse: then the text stays here until the user can pay for it.
        return Done(made.text, functools.partial(charge, usage=Usage(**usage), request_id=request.request_id))


def _record(attempt: Callable[[], object]) -> None:
    """Notes a failed attempt. Its id is drawn: the request's own stays free for a retry that succeeds."""
    try:
        attempt()
    except CreditLedgerError as error:
        log.warning("a failed attempt was not recorded: %s", error)


def _work(make: Work, request: Request) -> tuple[Made, dict[str, Any]]:
    """Does the work, and tells what the use was; raises WorkFailed."""
    start = time.monotonic()
    usage: dict[str, Any] = {"service": "example-model", "metadata": {"inputLength": len(request.text)}}
    try:
        made = make(request.text)
    except Exception as error:
        raise WorkFailed(usage | {"response_time": _since(start)}) from error
    usage["metadata"]["outputLength"] = len(made.text)
    return made, usage | {"response_time": _since(start), "metrics": {"tokens": made.tokens}}


def _since(start: float) -> timedelta:
    return timedelta(seconds=time.monotonic() - start)


def create_voice(text: str) -> Made:
    """Stands for the call of a voice model."""
    if text == "fail":
        raise ConnectionError("the model did not answer")
    return Made(f"A voice called {text}.", tokens=300)


def refine(text: str) -> Made:
    """Stands for the call of a language model, told to use MOST_TOKENS at most."""
    if text == "fail":
        raise ConnectionError("the model did not answer")
    return Made(f"Refined: {text}", tokens=min(1_500 + len(text), MOST_TOKENS))


def _denial(check: CanPerformResponse) -> Response:
    denial = check.denials[0]
    reason = ErrorReason.Name(denial.reason).removeprefix("ERROR_REASON_")
    full = [limit for limit in check.limits if 0 <= limit.limit <= limit.used]
    wait = None
    if reason == "LIMIT_EXCEEDED" and full[0].HasField("reset_time"):
        wait = full[0].reset_time.ToDatetime() - check.decide_time.ToDatetime()
    return _error(STATUSES[reason], reason, denial.message, wait)


def _refusal(error: CreditLedgerError) -> Response:
    status = 503 if isinstance(error, UNANSWERED) else STATUSES.get(error.reason, 500)
    if status == 503:
        # Whether it was charged may be unknown: the retry, with its same id, finds out.
        message = "please send the same request again"
        return _error(503, "UNAVAILABLE", message, error.retry_delay or timedelta(seconds=1))
    if status == 500:
        log.error("the ledger refused: %s", error)
        return _error(500, "INTERNAL", "internal error", None)
    return _error(status, error.reason, error.message, error.retry_delay)


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
        if self.path not in ROUTES:
            return _error(404, "NOT_FOUND", "there are only /voices and /chat", None)
        try:
            # X-User stands for your authentication.
            user, request_id = self.headers["X-User"], self.headers["X-Request-Id"]
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
        except (TypeError, KeyError, ValueError):
            return _error(400, "BAD_REQUEST", 'send {"text": ...} as JSON', None)
        if not (user and request_id):
            return _error(400, "BAD_REQUEST", "send the headers X-User and X-Request-Id", None)
        return self.backend.handle(Request(ROUTES[self.path], request_id, user, str(text)))


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
        Handler.backend = Backend(ledger, create_voice, refine)
        with ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
            print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
