"""Connections to Postgres that are cut at COMMIT, when nobody knows whether it happened."""

from __future__ import annotations

import itertools
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import quote

import psycopg
import pytest
from ledger_harness import ServerProcess
from ledger_load import UNKNOWN, Plan, await_true, effects, open_account, run_together, unequal, verified

IDS = 1_500
ACCOUNTS = [f"account-{number}" for number in range(6)]
CALLS = [(f"id-{number}", ACCOUNTS[number % len(ACCOUNTS)]) for number in range(IDS)]


@pytest.mark.parametrize("happens", [True, False], ids=["its answer is lost", "it is lost"])
def test_a_commit_cut_off_has_its_effect_once_and_its_callers_are_answered(
    dsn: str, start_server: Callable[..., ServerProcess], happens: bool
) -> None:
    with _Proxy(dsn, happens) as proxy:
        target = start_server("--database-url", proxy.dsn).target
        for account_id in ACCOUNTS:
            open_account(target, account_id, IDS)
        proxy.cut_every = 4

        answers = run_together([Plan([target], CALLS, callers=16)])
        cuts, proxy.cut_every = proxy.cuts, 0
        resent = run_together([Plan([target], CALLS, insist=True)])

    outcomes = Counter(answer.outcome for answer in answers)
    assert cuts > 10
    assert outcomes["OK"] > IDS / 2  # a cut is repaired before the caller hears of it, unless it comes thrice
    assert set(outcomes) <= UNKNOWN | {"OK"}
    assert Counter(answer.outcome for answer in resent) == {"OK": IDS}
    assert effects(dsn) == IDS
    assert unequal(answers + resent) == []
    assert verified(dsn) == f"accounts={len(ACCOUNTS)} entries={IDS + 2 * len(ACCOUNTS)} mismatches=0"


def test_while_a_lost_commit_may_still_happen_nobody_is_told_that_nothing_was_written(
    dsn: str, start_server: Callable[..., ServerProcess]
) -> None:
    """The COMMIT comes when the server has long been waiting for the lock that its own lost transaction holds."""
    with _Proxy(dsn, happens=True, late=3) as proxy:
        env = {"CREDITLEDGER_LOCK_TIMEOUT_MS": "100"}
        target = start_server("--database-url", proxy.dsn, env=env).target
        open_account(target, "account", 1)
        proxy.cut_every = 1

        [answer] = run_together([Plan([target], [("id", "account")])])
        proxy.cut_every = 0
        await_true(lambda: effects(dsn) == 1)
        [resent] = run_together([Plan([target], [("id", "account")], insist=True)])

    assert answer.outcome in ("OK", "STORAGE_UNAVAILABLE")
    assert (resent.outcome, resent.replayed) == ("OK", True)


def test_a_commit_that_is_lost_whenever_it_is_sent_is_not_told_as_done(
    dsn: str, start_server: Callable[..., ServerProcess]
) -> None:
    with _Proxy(dsn, happens=False) as proxy:
        target = start_server("--database-url", proxy.dsn).target
        open_account(target, "account", 1)
        proxy.cut_every = 1

        [answer] = run_together([Plan([target], [("id", "account")])])

    assert answer.outcome == "STORAGE_UNAVAILABLE"
    assert effects(dsn) == 0


class _Proxy:
    """Stands between a server and its Postgres. Cuts a connection at every ``cut_every``-th COMMIT, unless that is 0.

    With ``happens``, Postgres gets the COMMIT, ``late`` seconds later, and its answer is lost; otherwise Postgres never
    gets it.
    """

    def __init__(self, dsn: str, happens: bool, late: float = 0) -> None:
        self.cut_every = 0
        self.cuts = 0
        self._happens = happens
        self._late = late
        self._commits = itertools.count(1)
        with psycopg.connect(dsn) as conn:
            info = conn.info
            self._host, self._port = info.host, info.port
            user, database = quote(info.user), quote(info.dbname)
            password = f":{quote(info.password)}" if info.password else ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = (
            f"postgresql://{user}{password}@127.0.0.1:{port}/{database}?sslmode=disable&gssencmode=disable"
        )

    def __enter__(self) -> _Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        commit = re.compile(rb"COMMIT\0")  # as text, or by the name under which psycopg has prepared it
        with _closing(client, self._connect()) as (_, postgres):
            answers = threading.Thread(target=self._answer, args=(client, postgres), daemon=True)
            answers.start()
            while data := client.recv(1 << 16):
                if prepared := re.search(rb"(\w+)\0COMMIT\0", data):
                    commit = re.compile(rb"COMMIT\0|\0" + prepared[1] + rb"\0")
                if commit.search(data) and self._cuts_now():
                    if self._happens:
                        client.shutdown(socket.SHUT_WR)
                        time.sleep(self._late)
                        postgres.sendall(data)
                        postgres.shutdown(socket.SHUT_WR)
                        answers.join(10)
                    return
                postgres.sendall(data)

    def _answer(self, client: socket.socket, postgres: socket.socket) -> None:
        """Passes answers on; those that nobody takes any more are read all the same, to their end."""
        while data := _received(postgres):
            with suppress(OSError):
                client.sendall(data)

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        postgres = socket.socket(socket.AF_UNIX)
        postgres.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return postgres

    def _cuts_now(self) -> bool:
        cuts = bool(self.cut_every) and next(self._commits) % self.cut_every == 0
        self.cuts += cuts
        return cuts


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


@contextmanager
def _closing(*sockets: socket.socket) -> Iterator[tuple[socket.socket, ...]]:
    """Closes them at the end so that both sides notice, and takes their errors for their end."""
    with ExitStack() as stack:
        for each in sockets:
            stack.callback(each.close)
            stack.callback(_shut_down, each)
        with suppress(OSError):
            yield sockets


def _shut_down(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
