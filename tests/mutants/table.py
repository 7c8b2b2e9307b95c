"""The seeded bugs, and the tests that must find each of them. See CONTRIBUTING.md."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """A bug: ``old``, which occurs once in ``file``, becomes ``new``, and one of ``tests`` must fail.

    ``tries``: how often the tests are run at most; more than 1 where only chance brings the bug out.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    tries: int = 1

    def applies(self, root: Path) -> bool:
        """Whether the text to replace occurs exactly once."""
        file = root / self.file
        return file.exists() and file.read_text(encoding="utf-8").count(self.old) == 1

    def mutated(self, text: str) -> str:
        """The file's text with the bug."""
        return text.replace(self.old, self.new)


SERVER = "server/creditledger_server"
ACCOUNT = f"{SERVER}/domain/account.py"
BOOK = f"{SERVER}/domain/book.py"
DECIDE = f"{SERVER}/domain/decide.py"
EVALUATE = f"{SERVER}/domain/evaluate.py"
GRANTS = f"{SERVER}/domain/grant_rules.py"
HOLDS = f"{SERVER}/domain/holds.py"
LEVELS = f"{SERVER}/domain/levels.py"
LOTS = f"{SERVER}/domain/lots.py"
REFUNDS = f"{SERVER}/domain/refund_rules.py"
RESERVATIONS = f"{SERVER}/domain/reservation_rules.py"
SETTLE = f"{SERVER}/domain/settle.py"
RECORDS = f"{SERVER}/storage/records.py"
ENTRY = f"{SERVER}/domain/entry.py"
LANE = f"{SERVER}/ledger/lane.py"
WRITER = f"{SERVER}/ledger/writer.py"
BATCH = f"{SERVER}/storage/batch.py"
ERRORS = f"{SERVER}/storage/errors.py"
EXCHANGE = f"{SERVER}/storage/exchange.py"
COMMITS = f"{SERVER}/storage/commits.py"
FAILURES = f"{SERVER}/ledger/failures.py"
HUB = f"{SERVER}/watch/hub.py"
WATCH_ACCOUNTS = f"{SERVER}/watch/accounts.py"
TAILER = f"{SERVER}/watch/tailer.py"
TAILER_TESTS = "tests/unit/test_watch_tailer.py"
RPC_SERVER = f"{SERVER}/rpc/server.py"
CREDIT_LEDGER = f"{SERVER}/rpc/credit_ledger.py"
CLIENT_BATCHING = "client/creditledger/_batches.py"
CLIENT_WATCH = "client/creditledger/_watch.py"
CLIENT_FIELDS = "client/creditledger/_fields.py"
CLIENT_BLOCK = "client/creditledger/_block.py"
CLIENT_SYNC_BLOCK = "client/creditledger/_sync_block.py"
CLIENT_ASYNC_BLOCK = "client/creditledger/_async_block.py"

TIME_TESTS = "tests/unit/test_domain_time.py"
INTERLEAVINGS = "tests/race/test_race_interleavings.py"
BLOCK_TESTS = "tests/client/test_client_reservations"
DECIDE_TESTS = "tests/unit/test_domain_decide.py"
REQUEST_IDS = "tests/rpc/test_rpc_request_ids.py"
LANE_TESTS = "tests/unit/test_lane.py"

COMMIT_EARLY = 'yield Statement("commit_1", "COMMIT"), (); yield Statement("begin_2", "BEGIN"), ()'

MUTANTS = (
    Mutant(
        "a credit more than there is may be spent",
        EVALUATE,
        "if cost > account.available:",
        "if cost > account.available + 1:",
        ("tests/rpc/test_rpc_deduct.py::test_the_last_credit_can_be_spent_and_not_one_more",),
    ),
    Mutant(
        "a limit is one use too strict",
        EVALUATE,
        "0 <= state.limit < state.used + quantity",
        "0 <= state.limit <= state.used + quantity",
        (f"{DECIDE_TESTS}::test_uses_up_to_the_limit_are_accepted_and_told",),
    ),
    Mutant(
        "uses of an operation do not add up",
        ACCOUNT,
        "self.uses[operation, period] = Use(start, uses + quantity)",
        "self.uses[operation, period] = Use(start, quantity)",
        ("tests/rpc/test_rpc_batch_deduct.py::test_uses_of_earlier_items_count_for_later_ones",),
    ),
    Mutant(
        "a round's second deduction does not see the first",
        EVALUATE,
        "if cost > account.available:",
        "if cost > account.available + sum(entry.cost for entry in account.written):",
        (f"{DECIDE_TESTS}::test_as_many_deductions_succeed_as_the_balance_pays_for",),
    ),
    Mutant(
        "fingerprint not compared",
        DECIDE,
        "if earlier.fingerprint != command.fingerprint():",
        "if False:",
        (f"{REQUEST_IDS}::test_an_id_of_one_method_is_taken_for_all_methods",),
    ),
    Mutant(
        "replay after the state checks",
        DECIDE,
        "if earlier := account.remembered.get(command.request_id):",
        "if not state_denials(account) and (earlier := account.remembered.get(command.request_id)):",
        (f"{REQUEST_IDS}::test_a_replay_is_answered_on_frozen_and_closed_accounts",),
    ),
    Mutant(
        "a refusal is stored",
        DECIDE,
        "        raise denials[0]\n",
        "        account.post(EntryKind.DEDUCTED, now, operation=command.operation,\n"
        "            request_id=command.request_id, fingerprint=command.fingerprint())\n"
        "        raise denials[0]\n",
        (
            "tests/rpc/test_rpc_request_ids.py::test_after_a_refusal_for_credits_and_a_top_up_the_same_id_succeeds",
        ),
    ),
    Mutant(
        "revision from a counter of the process and not from the row",
        ACCOUNT,
        "self.account_id, self.revision + 1, kind",
        "self.account_id, (setattr(Account, 'n', getattr(Account, 'n', 0) + 1) or Account.n), kind",
        ("tests/rpc/test_rpc_start.py::test_a_second_start_keeps_everything[SIGTERM]",),
    ),
    Mutant(
        "entries are not chained",
        ENTRY,
        "sha256(previous + ",
        "sha256(",
        ("tests/unit/test_domain_entry.py",),
    ),
    Mutant(
        "the tailer reads beyond the horizon",
        COMMITS,
        '_HORIZON = "pg_snapshot_xmin(',
        '_HORIZON = "pg_snapshot_xmax(',
        (
            "tests/storage/test_storage_commit_log.py::test_what_is_not_committed_yet_holds_back_what_is_behind_it",
        ),
    ),
    Mutant(
        "a position of several commits is read in part",
        COMMITS,
        "commits.position >= $1::bigint AND",
        "commits.position > $1::bigint AND",
        ("tests/storage/test_storage_commit_ties.py::test_a_position_of_many_commits_is_read_whole",),
    ),
    Mutant(
        "a watcher skips the first entry after its snapshot",
        WATCH_ACCOUNTS,
        "self._seen[account_id] = standing.account.revision\n",
        "self._seen[account_id] = standing.account.revision + 1\n",
        ("tests/rpc/test_rpc_watch.py::test_a_cursor_fits_its_accounts_in_any_order",),
    ),
    Mutant(
        "a watcher loses what happens between two waits",
        HUB,
        "        if self._changed or self._closed:\n            return\n",
        "",
        ("tests/unit/test_watch_hub.py::test_a_change_before_the_wait_is_not_missed",),
    ),
    Mutant(
        "a watcher stops where a page ends",
        WATCH_ACCOUNTS,
        "while changes := await self._next(account_id, from_tables=True):",
        "if changes := await self._next(account_id, from_tables=True):",
        ("tests/rpc/test_rpc_watch.py::test_more_than_a_page_that_was_missed_comes_before_caught_up",),
    ),
    Mutant(
        "a resumed watcher begins with what happens next",
        WATCH_ACCOUNTS,
        "        for account_id in self._seen:\n            if self._interval:",
        "        for account_id in ():\n            if self._interval:",
        (
            "tests/rpc/test_rpc_watch.py::test_a_cursor_resumes_with_what_was_missed_then_caught_up_once_then_live",
        ),
    ),
    Mutant(
        "commits of other processes wake nobody",
        TAILER,
        "                hub.read(account_id, entries)\n",
        "                pass\n",
        (f"{TAILER_TESTS}::test_entries_of_others_are_at_hand_for_those_they_concern_and_nobody_else",),
    ),
    Mutant(
        "what others committed before the first poll is told to nobody",
        TAILER,
        "self._found = changed is None or bool(changed)",
        "self._found = bool(changed)",
        (f"{TAILER_TESTS}::test_the_first_look_lets_watchers_of_all_accounts_look_once",),
    ),
    Mutant(
        "what one stream finds in the tables its neighbours never hear of",
        HUB,
        "        if self.recent.reached(account_id, revision):\n            self._notify(account_id)\n",
        "        self.recent.reached(account_id, revision)\n",
        ("tests/unit/test_watch_hub.py::test_a_stream_is_told_of_what_another_was_first_to_find",),
    ),
    Mutant(
        "entries in memory may have a gap",
        f"{SERVER}/watch/recent.py",
        "            return False\n",
        "            pass\n",
        (
            "tests/unit/test_watch_hub.py::test_a_commit_behind_those_of_others_asks_for_these_and_tells_nobody_before",
        ),
    ),
    Mutant(
        "a page read before a commit counts as all there is",
        f"{SERVER}/watch/pages.py",
        "page.extent.complete and page.generation >= generation",
        "page.extent.complete",
        ("tests/unit/test_watch_pages.py::test_a_page_from_before_the_news_is_not_all_there_is",),
    ),
    Mutant(
        "a cursor between summaries forgets which accounts were told",
        f"{SERVER}/watch/cursor.py",
        "return place <= self.reached or (place <= self.end and place.account_id <= self.account_id)",
        "return place <= self.reached",
        (
            "tests/rpc/test_rpc_watch_summaries.py::test_every_cursor_between_summaries_of_all_accounts_resumes_exactly",
        ),
    ),
    Mutant(
        "a cursor older than the commit log skips what was forgotten",
        f"{SERVER}/watch/pages.py",
        "if position < reach.kept_from:",
        "if False:",
        ("tests/rpc/test_rpc_watch_retention.py::test_a_cursor_of_all_accounts_from_before_is_expired",),
    ),
    Mutant(
        "a bug's text reaches the caller",
        FAILURES,
        'f"internal error, incident {number}"',
        'f"internal error, incident {number}: {error}"',
        (
            "tests/race/test_race_poison.py"
            "::test_a_poisoned_request_is_an_internal_error_that_tells_an_incident_and_no_internals",
        ),
    ),
    Mutant(
        "two servers share a port unnoticed",
        RPC_SERVER,
        "int(share_port)",
        "1",
        ("tests/rpc/test_rpc_start.py::test_a_port_is_not_shared_even_with_those_who_would",),
    ),
    Mutant(
        "the client draws an id of its own though it was given one",
        CLIENT_FIELDS,
        "return str(uuid4()) if request_id is None else request_id",
        "return str(uuid4())",
        ("tests/client/test_client_retries.py::test_a_given_request_id_is_sent_as_it_is",),
    ),
    Mutant(
        "the client draws an id for each attempt",
        CLIENT_BATCHING,
        "        return BatchDeductRequest(requests=[call.request for call in self.calls])",
        "        for call in self.calls:\n"
        "            call.request.request_id += '+'\n"
        "        return BatchDeductRequest(requests=[call.request for call in self.calls])",
        (
            "tests/client/test_client_batching.py"
            "::test_an_unavailable_item_is_sent_again_by_itself_with_the_same_id",
        ),
    ),
    Mutant(
        "a block of the client commits work that raised",
        CLIENT_SYNC_BLOCK,
        "            self._release_after(error)\n",
        "            self.commit()\n",
        (f"{BLOCK_TESTS}.py::test_the_error_of_the_work_releases_and_goes_on",),
    ),
    Mutant(
        "a block of the client releases though its commit may have happened",
        CLIENT_BLOCK,
        "            raise self._unanswered(error)\n",
        "            self._unresolved = None\n            raise self._unanswered(error)\n",
        (f"{BLOCK_TESTS}.py::test_work_that_fails_after_a_commit_without_an_answer_is_not_released",),
    ),
    Mutant(
        "a block of the client sends an unanswered commit again under a new id",
        CLIENT_BLOCK,
        "        if self._unresolved is None:\n            self._unresolved = ",
        "        if True:\n            self._unresolved = ",
        (f"{BLOCK_TESTS}.py::test_a_commit_that_is_never_answered_is_not_released",),
    ),
    Mutant(
        "a block of the client is not extended while the work lasts",
        CLIENT_SYNC_BLOCK,
        "        self._heartbeat.start()\n",
        "",
        (f"{BLOCK_TESTS}_heartbeat.py::test_it_is_extended_by_its_ttl_while_the_work_lasts",),
    ),
    Mutant(
        "a block of the client whose task is cancelled twice does not release",
        CLIENT_ASYNC_BLOCK,
        "await _to_its_end(self._release_after(error), self._timeout)",
        "await self._release_after(error)",
        (f"{BLOCK_TESTS}_cancelled.py::test_a_task_cancelled_twice_has_released_when_it_ends",),
    ),
    Mutant(
        "an allowance that does not come is due for ever",
        SETTLE,
        " and _takes_allowance(account, book, now)",
        "",
        (f"{TIME_TESTS}::test_nothing_stays_due_where_no_allowance_can_come",),
    ),
    Mutant(
        "the client resumes a watch where it began",
        CLIENT_WATCH,
        "self.request.cursor = message.cursor",
        "pass",
        ("tests/client/test_client_watch.py::test_an_interrupted_stream_is_resumed_from_the_last_cursor",),
    ),
    # The hot path.
    Mutant(
        "no row lock",
        BATCH,
        "ORDER BY account_id FOR NO KEY UPDATE",
        "ORDER BY account_id",
        (f"{INTERLEAVINGS}::test_two_servers_that_begin_before_either_decides_spend_the_last_credit_once",),
    ),
    Mutant(
        "request ids looked up before the lock",
        BATCH,
        "_, accounts, requests, *rest = await conn.exchange(*statements)",
        "begin, lock, ids, *more = statements\n"
        "    _, requests, accounts, *rest = await conn.exchange(begin, ids, lock, *more)",
        (
            f"{INTERLEAVINGS}"
            "::test_two_servers_that_begin_one_request_before_either_decides_carry_it_out_once",
        ),
    ),
    Mutant(
        "accounts locked in any order",
        BATCH,
        "ORDER BY account_id FOR NO KEY UPDATE",
        "ORDER BY random() FOR NO KEY UPDATE",
        (f"{INTERLEAVINGS}::test_two_batches_that_are_stopped_half_way_through_their_locks_do_not_deadlock",),
    ),
    Mutant(
        "the time is that of the transaction's start",
        BATCH,
        "SELECT ledger_time(),",
        "SELECT now(),",
        (f"{INTERLEAVINGS}::test_an_entry_has_the_time_of_its_decision_and_not_of_its_beginning",),
    ),
    Mutant(
        "an account's time follows a clock that steps back",
        WRITER,
        "return max(loaded.now, account.last_time)",
        "return loaded.now",
        (f"{INTERLEAVINGS}::test_the_time_of_an_account_never_steps_back",),
    ),
    Mutant(
        "entries and request ids written in a second transaction",
        BATCH,
        "yield _INSERT_ENTRIES,",
        f"{COMMIT_EARLY}; yield _INSERT_ENTRIES,",
        (f"{INTERLEAVINGS}::test_of_what_postgres_refuses_in_part_nothing_is_written[entry]",),
    ),
    Mutant(
        "the commit log written in a second transaction",
        BATCH,
        "yield _INSERT_COMMIT,",
        f"{COMMIT_EARLY}; yield _INSERT_COMMIT,",
        (f"{INTERLEAVINGS}::test_of_what_postgres_refuses_in_part_nothing_is_written[commit_log]",),
    ),
    Mutant(
        "answered before the commit",
        WRITER,
        "await write_and_commit(conn, changed, loaded.transaction_id)",
        "asyncio.get_running_loop().create_task(write_and_commit(conn, changed, loaded.transaction_id))",
        (f"{INTERLEAVINGS}::test_nobody_is_told_ok_before_the_commit",),
    ),
    Mutant(
        "what nobody waits for any more is carried out when its lock comes",
        WRITER,
        "if ticket.call.abandoned(clock) and not",
        "if False and not",
        (f"{INTERLEAVINGS}::test_what_nobody_waits_for_any_more_when_its_lock_comes_is_not_carried_out",),
    ),
    Mutant(
        "what nobody waits for any more is taken into a round",
        LANE,
        "if ticket.call.abandoned(now):",
        "if False:",
        (f"{LANE_TESTS}::test_a_request_whose_deadline_has_passed_is_answered_and_not_served",),
    ),
    Mutant(
        "a COMMIT of unknown outcome is told as a refusal",
        WRITER,
        "unsure = unsure or isinstance(error, StorageUnavailable)",
        "unsure = False",
        (
            "tests/race/test_race_commit_cut.py"
            "::test_while_a_lost_commit_may_still_happen_nobody_is_told_that_nothing_was_written",
        ),
    ),
    Mutant(
        "request ids not looked up",
        BATCH,
        "if row[4] is not None and row[4] in found:",
        "if False:",
        (f"{REQUEST_IDS}::test_a_request_sent_again_gets_the_first_response_field_for_field",),
    ),
    Mutant(
        "a COMMIT that failed passes for one that happened",
        EXCHANGE,
        "for result in results:\n            if result.status",
        "for result in results[:-1]:\n            if result.status",
        (f"{INTERLEAVINGS}::test_nobody_is_told_ok_before_the_commit",),
    ),
    Mutant(
        "a lost connection passes for a statement that failed",
        ERRORS,
        "except _UNAVAILABLE as error:\n        raise StorageUnavailable(",
        "except _UNAVAILABLE as error:\n        raise BatchRejected(",
        (
            "tests/race/test_race_commit_cut.py"
            "::test_a_commit_that_is_lost_whenever_it_is_sent_is_not_told_as_done",
        ),
    ),
    Mutant(
        "a round that fails fails all its requests",
        WRITER,
        "[[ticket] for ticket in tickets] if isinstance(error, BatchRejected) else []",
        "[]",
        ("tests/race/test_race_poison.py::test_the_order_of_an_accounts_requests_survives_a_poisoned_one",),
    ),
    Mutant(
        "a round that fails is not split by account",
        WRITER,
        "parts = _by_account(tickets)",
        "parts = [tickets]",
        (
            "tests/race/test_race_locks.py"
            "::test_only_callers_of_the_held_account_are_turned_away_and_nothing_of_them_happened[batch]",
        ),
    ),
    Mutant(
        "a full lane takes more",
        LANE,
        "<= self._queue_limit",
        "<= self._queue_limit + 1",
        (f"{LANE_TESTS}::test_a_full_lane_refuses_at_once_and_queues_nothing",),
    ),
    Mutant(
        "commits are not durable where the database's default is so",
        f"{SERVER}/storage/connect.py",
        '"synchronous_commit": "on"',
        '"synchronous_commit": "off"',
        ("tests/storage/test_storage_durability.py",),
    ),
    Mutant(
        "a grant can be spent at the instant at which it expires",
        SETTLE,
        "account.last_time < lot.expire_time <= now",
        "account.last_time < lot.expire_time < now",
        (f"{TIME_TESTS}::test_a_grant_can_be_spent_until_the_microsecond_before_it_expires",),
    ),
    Mutant(
        "what time does is written with the time of whoever writes it",
        ACCOUNT,
        "fields = (\n            self.account_id, self.revision + 1, kind, now,",
        "now = now if request_id else max(now, self.last_time + 1)\n"
        "        fields = (\n            self.account_id, self.revision + 1, kind, now,",
        (f"{TIME_TESTS}::test_an_allowance_comes_with_opening_and_at_every_midnight_and_ends_there",),
    ),
    Mutant(
        "an allowance comes again with every change of level",
        LEVELS,
        "account.allowances.get(allowance.period) == start",
        "False",
        (f"{TIME_TESTS}::test_whoever_changes_levels_back_and_forth_has_one_allowance_per_period",),
    ),
    Mutant(
        "allowances are those of the newest catalog",
        SETTLE,
        "version, catalog, _ = book.at(due.time)\n    if allowance",
        "version, catalog, _ = book.versions[-1]\n    if allowance",
        (f"{TIME_TESTS}::test_the_catalog_at_the_beginning_of_the_period_says_how_much",),
    ),
    Mutant(
        "a commit is priced by the current catalog",
        RESERVATIONS,
        "pinned = book.of_version(reservation.catalog_version)",
        "pinned = book.current",
        (f"{TIME_TESTS}::test_a_commit_is_priced_by_the_catalog_at_which_it_was_reserved",),
    ),
    Mutant(
        "a late commit is not checked",
        RESERVATIONS,
        'raise _ended(reservation, f", and {denial.message}") from None',
        "pass",
        (f"{TIME_TESTS}::test_a_late_commit_that_does_not_fit_is_refused_as_expired",),
    ),
    Mutant(
        "what is held comes back to a grant that has ended",
        LOTS,
        "alive = returned if lot.expire_time > now else 0",
        "alive = returned",
        (f"{TIME_TESTS}::test_held_credits_outlive_their_grant_for_their_commit_and_for_nothing_else",),
    ),
    Mutant(
        "uses of a released reservation stay counted",
        HOLDS,
        "    return_uses(account, book.of_version(reservation.catalog_version), reservation, reservation.quantity)\n",
        "",
        (f"{TIME_TESTS}::test_a_release_gives_credits_and_uses_back",),
    ),
    Mutant(
        "refunds forget the ones before",
        REFUNDS,
        "account.records.refunded[charged.revision] = before + amount",
        "account.records.refunded[charged.revision] = amount",
        ("tests/race/test_race_reservations.py::test_refunds_of_one_entry_never_exceed_its_cost",),
    ),
    Mutant(
        "refunds are not loaded",
        RECORDS,
        "accounts[row[1]].records.refunded[entry.revision] = row[0]",
        "accounts[row[1]].records.refunded[entry.revision] = 0",
        ("tests/race/test_race_reservations.py::test_refunds_of_one_entry_never_exceed_its_cost",),
    ),
    Mutant(
        "a payment is credited once per account",
        RECORDS,
        "WHERE purchase.payment_reference = wanted.payment_reference LIMIT 1",
        "WHERE purchase.payment_reference = wanted.payment_reference"
        " AND purchase.account_id = wanted.account_id LIMIT 1",
        ("tests/race/test_race_reservations.py::test_a_payment_is_credited_once_in_the_whole_ledger",),
    ),
    Mutant(
        "reservations that have run out are not loaded",
        WRITER,
        "        if run_out:\n            await load_run_out(conn, run_out, loaded.now)\n",
        "",
        (
            "tests/rpc/test_rpc_reservation_ends.py"
            "::test_it_runs_out_at_its_instant_and_not_a_microsecond_before",
        ),
    ),
)
