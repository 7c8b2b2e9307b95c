"""Sums of usage: rollups of whole chunks of an account's entries, and summaries made of them and of single entries.

The tables are described in migration 0004, the idea in docs/decisions/0010.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from ..domain.times import iso_time
from ..domain.usage_summary import MAX_METRICS, MAX_ROWS, QUARTER, SummaryTooLarge, UsageSums
from .arrays import text_array, time_array
from .connect import Connection
from .errors import translated
from .exchange import PG_EPOCH, Row, Statement

CHUNK: Final = 1_000
"""How many entries of an account are summed together. Stored sums depend on it: it never changes."""

_ROUND = 5
"""How many chunks one transaction sums: the streams of all accounts wait for it (docs/decisions/0003)."""

_PIECE = 180 * 86_400_000_000
"""How much time one statement sums, in microseconds: however long a history is, no statement takes longer for it."""

_LAST_REVISION = 2**63 - 1


class Extent(NamedTuple):
    """How far an account's history reaches, and up to which revision it is summed; times in microseconds.

    ``revision`` is 0 if there is no such account.
    """

    revision: int
    rolled_up: int
    create_time: int
    last_time: int
    now: int

    @property
    def chunks(self) -> int:
        """How many whole chunks there are."""
        return self.revision // CHUNK

    @property
    def rolled_up_chunks(self) -> int:
        """How many of them are summed."""
        return min(self.rolled_up // CHUNK, self.chunks)

    @property
    def unsummed(self) -> bool:
        """Whether there are whole chunks that are not summed."""
        return self.rolled_up // CHUNK < self.chunks

    @property
    def overstated(self) -> bool:
        """Whether more is said to be summed than there is."""
        return self.rolled_up > self.revision


class Span(NamedTuple):
    """``start`` <= time < ``end`` in microseconds, divided at ``starts``: rising, the first not after ``start``."""

    start: int
    end: int
    starts: Sequence[int]


Wrong = tuple[int, str]
"""The quarter of an hour, in microseconds, and the operation of a rollup that does not match the entries."""


class Position(NamedTuple):
    """A place in the order of an account's rollups, which is that of its entries."""

    quarter_start: str
    chunk: int


BEGINNING: Final = Position("-infinity", -1)
_END: Final = Position("infinity", _LAST_REVISION)


class Window(NamedTuple):
    """How the rollups of some chunks compare with the entries.

    ``wrong`` names those that are missing, too many or different. The next window begins with ``next_chunk``, behind
    ``end``; None: this one was the last, and took in all rollups that there are beyond it.
    """

    next_chunk: int | None
    end: Position
    wrong: list[Wrong]


# What single entries add to the sums. A failed attempt counts with all that it told; a refund only takes credits back.
_TOLD = """
SELECT (revision - 1) / 1000 AS chunk, create_time, operation,
       CASE WHEN kind = 10 OR told.outcome = 'failed' THEN 0 ELSE quantity END AS uses,
       CASE WHEN kind <> 10 AND told.outcome = 'failed' THEN quantity ELSE 0 END AS failures,
       CASE WHEN kind <> 10 THEN cost ELSE (
           SELECT sum(split_part(draw, ':', 2)::bigint) FROM unnest(string_to_array(draws, ',')) AS draw
       ) END AS credits,
       told.response_time_us, told.metrics
FROM entry
LEFT JOIN LATERAL json_to_record(usage) AS told (outcome text, response_time_us bigint, metrics jsonb) ON true
WHERE account_id = $1 AND kind IN (4, 6, 10)
"""  # DEDUCTED, COMMITTED, REFUNDED

# Ordered, because before the first ANALYZE the planner could take the index of request ids, and read all history.
_CHUNKS = f"""
SELECT quarter_start, chunk, operation, first_time, last_time, uses, failures, credits, response_time_us,
       response_times, (
           SELECT jsonb_object_agg(name, total) FROM (
               SELECT name, sum(value::numeric) AS total
               FROM unnest(told_metrics) AS part CROSS JOIN LATERAL jsonb_each_text(part) AS told (name, value)
               GROUP BY name
           ) AS totals
       ) AS metrics
FROM (
    SELECT date_bin('15 minutes', create_time, 'epoch') AS quarter_start, chunk, operation,
           min(min(create_time)) OVER slice AS first_time, max(max(create_time)) OVER slice AS last_time,
           sum(uses) AS uses, sum(failures) AS failures, sum(credits) AS credits,
           coalesce(sum(response_time_us), 0) AS response_time_us, count(response_time_us) AS response_times,
           array_agg(metrics) FILTER (WHERE metrics IS NOT NULL) AS told_metrics
    FROM ({_TOLD} AND revision > $2::bigint * 1000 AND revision <= $3::bigint * 1000 ORDER BY revision OFFSET 0) AS told
    GROUP BY 1, chunk, operation
    WINDOW slice AS (PARTITION BY date_bin('15 minutes', create_time, 'epoch'), chunk)
) AS sums
"""

_COLUMNS = (
    "quarter_start, chunk, operation, first_time, last_time, uses, failures, credits, response_time_us,"
    " response_times, metrics"
)

_SUM_CHUNKS = Statement("usage_sum_chunks", f"{_CHUNKS} ORDER BY 1, 2, 3")
_INSERT_CHUNKS = Statement(
    "usage_insert_chunks",
    f"INSERT INTO usage_rollup (account_id, {_COLUMNS}) SELECT $1, sums.* FROM ({_CHUNKS}) AS sums",
)

_WITHIN = (
    "account_id = $1 AND (quarter_start, chunk) > ($2::timestamptz, $3::bigint)"
    " AND (quarter_start, chunk) <= ($4::timestamptz, $5::bigint)"
)
_STORED = Statement("usage_stored", f"SELECT {_COLUMNS} FROM usage_rollup WHERE {_WITHIN} ORDER BY 1, 2, 3")
_DELETE = Statement("usage_delete", f"DELETE FROM usage_rollup WHERE {_WITHIN}")

_EXTENT = Statement(
    "usage_extent",
    """
SELECT coalesce(account.revision, 0), coalesce(head.revision, 0),
       coalesce(account.create_time, 'epoch'), coalesce(account.last_time, 'epoch'), ledger_time()
FROM (SELECT) AS one
LEFT JOIN account ON account.account_id = $1 LEFT JOIN usage_rollup_head AS head ON head.account_id = $1
""",
)

_OPEN_HEAD = Statement(
    "usage_open_head",
    "INSERT INTO usage_rollup_head (account_id, revision) VALUES ($1, 0) ON CONFLICT DO NOTHING",
)
_LOCK_HEAD = Statement(
    "usage_lock_head", "SELECT FROM usage_rollup_head WHERE account_id = $1 FOR NO KEY UPDATE"
)
_MOVE_HEAD = Statement(
    "usage_move_head", "UPDATE usage_rollup_head SET revision = $2::bigint * 1000 WHERE account_id = $1"
)

# $2, $3: the span; $4: the starts of the buckets; $5: the operations, NULL for all; $6: how many chunks are summed;
# $7: the quarters of an hour in which the span begins and ends. What its bounds cut there is read entry by entry.
_PARTS = f"""
WITH single AS MATERIALIZED (
    SELECT $6::bigint * 1000 AS after, {_LAST_REVISION} AS last, $2::timestamptz AS since, $3::timestamptz AS until
    UNION ALL
    SELECT DISTINCT chunk * 1000, chunk * 1000 + 1000,
           greatest(quarter_start, $2::timestamptz), least(quarter_start + interval '15 minutes', $3::timestamptz)
    FROM usage_rollup
    WHERE account_id = $1 AND quarter_start = ANY($7::timestamptz[]) AND chunk < $6::bigint
      AND NOT (first_time >= $2 AND last_time < $3)
), parts AS (
    SELECT width_bucket(quarter_start, $4::timestamptz[]) AS bucket, operation, uses, failures, credits,
           response_time_us, response_times, metrics
    FROM usage_rollup
    WHERE account_id = $1 AND quarter_start >= ($7::timestamptz[])[1] AND quarter_start < $3 AND chunk < $6
      AND first_time >= $2 AND last_time < $3 AND ($5::text[] IS NULL OR operation = ANY($5))
    UNION ALL
    SELECT width_bucket(create_time, $4::timestamptz[]), operation, uses, failures, credits,
           response_time_us, (response_time_us IS NOT NULL)::int, metrics
    FROM single CROSS JOIN LATERAL (
        {_TOLD} AND revision > single.after AND revision <= single.last
          AND create_time >= single.since AND create_time < single.until AND ($5 IS NULL OR operation = ANY($5))
        ORDER BY revision OFFSET 0
    ) AS told
)
"""
_SUMS = Statement(
    "usage_sums",
    f"""{_PARTS}
SELECT bucket, operation, sum(uses), sum(failures), sum(credits), coalesce(sum(response_time_us), 0),
       sum(response_times)
FROM parts GROUP BY bucket, operation LIMIT $8::bigint
""",
)
# By itself: to carry all metrics through one grouping took several times as long.
_METRICS = Statement(
    "usage_metrics",
    f"""{_PARTS}
SELECT bucket, operation, name, sum(value::numeric)
FROM parts CROSS JOIN LATERAL jsonb_each_text(metrics) AS told (name, value)
GROUP BY bucket, operation, name LIMIT $8::bigint
""",
)

_ACCOUNTS = Statement(
    "usage_accounts",
    """
(SELECT account_id FROM usage_rollup_head WHERE account_id > $1 ORDER BY account_id LIMIT $2::bigint)
UNION
(SELECT account_id FROM account WHERE account_id > $1 AND revision >= 1000 ORDER BY account_id LIMIT $2::bigint)
ORDER BY account_id LIMIT $2::bigint
""",
)


async def read_extent(conn: Connection, account_id: str) -> Extent:
    """How far an account's history reaches."""
    return _extent((await conn.fetch(_EXTENT, account_id))[0])


async def read_summary(
    conn: Connection, account_id: str, operations: Sequence[str], span: Span, extent: Extent
) -> list[UsageSums]:
    """What the entries in a span add up to, by bucket, then operation; raises SummaryTooLarge.

    No ``operations``: all. ``extent`` is as of the same moment, so within ``consistent_reads``.
    """
    found: dict[tuple[int, str], UsageSums] = {}
    for piece in _pieces(span):
        parameters = (
            account_id,
            iso_time(piece.start),
            iso_time(piece.end),
            time_array(map(iso_time, piece.starts)),
            text_array(operations) if operations else None,
            extent.rolled_up_chunks,
            time_array(iso_time(time - time % QUARTER) for time in (piece.start, piece.end)),
        )
        sums, metrics = await conn.exchange(
            (_SUMS, (*parameters, MAX_ROWS + 1)), (_METRICS, (*parameters, MAX_METRICS + 1))
        )
        _add(found, piece.starts, sums, metrics)
    return [found[key] for key in sorted(found)]


async def roll_up(conn: Connection, account_id: str) -> bool:
    """Sums the next chunks of an account; tells whether any are left. Any number of servers may do so at once."""
    with translated():
        async with conn.transaction():
            extent = await _locked_extent(conn, account_id)
            if not extent.unsummed:
                return False
            upto = min(extent.rolled_up_chunks + _ROUND, extent.chunks)
            await conn.exchange(
                (_INSERT_CHUNKS, (account_id, extent.rolled_up_chunks, upto)),
                (_MOVE_HEAD, (account_id, upto)),
            )
            return upto < extent.chunks


async def compare(conn: Connection, account_id: str, extent: Extent, chunk: int, after: Position) -> Window:
    """Holds the rollups of the next chunks from ``chunk`` on, behind ``after``, against the entries."""
    upto = min(chunk + _ROUND, extent.rolled_up_chunks)
    expected = await conn.fetch(_SUM_CHUNKS, account_id, chunk, upto)
    last = upto == extent.rolled_up_chunks
    end = (
        _END
        if last
        else Position(iso_time(expected[-1][0] + PG_EPOCH), expected[-1][1])
        if expected
        else after
    )
    stored = await conn.fetch(_STORED, account_id, *after, *end)
    return Window(None if last else upto, end, _differences(expected, stored))


async def repair(conn: Connection, account_id: str, chunk: int, after: Position) -> Window:
    """The same, and what is wrong is replaced by what the entries say."""
    with translated():
        async with conn.transaction():
            extent = await _locked_extent(conn, account_id)
            window = await compare(conn, account_id, extent, chunk, after)
            if window.wrong:
                upto = extent.rolled_up_chunks if window.next_chunk is None else window.next_chunk
                await conn.exchange(
                    (_DELETE, (account_id, *after, *window.end)), (_INSERT_CHUNKS, (account_id, chunk, upto))
                )
            return window


async def pull_back_head(conn: Connection, account_id: str) -> bool:
    """Where more is said to be summed than there is: corrects that, and returns True."""
    with translated():
        async with conn.transaction():
            extent = await _locked_extent(conn, account_id)
            if not extent.overstated:
                return False
            await conn.fetch(_MOVE_HEAD, account_id, extent.chunks)
            return True


async def read_summed_accounts(conn: Connection, after: str, limit: int) -> list[str]:
    """The first ``limit`` accounts behind ``after`` that have sums, or entries enough to have some."""
    return [account_id for (account_id,) in await conn.fetch(_ACCOUNTS, after, limit)]


async def _locked_extent(conn: Connection, account_id: str) -> Extent:
    """Within a transaction: nobody else sums the account until it ends."""
    # The lock is a statement of its own, so that the next one sees what whoever held it wrote.
    *_, rows = await conn.exchange(
        (_OPEN_HEAD, [account_id]), (_LOCK_HEAD, [account_id]), (_EXTENT, [account_id])
    )
    return _extent(rows[0])


def _extent(row: Row) -> Extent:
    revision, rolled_up, *times = row
    return Extent(revision, rolled_up, *(time + PG_EPOCH for time in times))


def _differences(expected: Sequence[Row], stored: Sequence[Row]) -> list[Wrong]:
    """The quarter and operation of every row that is in one of them only, or differs."""
    if expected == stored:
        return []
    should, found = ({row[:3]: row for row in rows} for rows in (expected, stored))
    wrong = sorted(key for key in should.keys() | found.keys() if should.get(key) != found.get(key))
    return [(quarter_start + PG_EPOCH, operation) for quarter_start, _, operation in wrong]


def _pieces(span: Span) -> Iterator[Span]:
    """The span in parts that one statement each can sum; they meet on quarters of an hour, which cuts no rollup."""
    start = span.start
    while start < span.end:
        end = min(start - start % QUARTER + _PIECE, span.end)
        starts = span.starts[bisect_right(span.starts, start) - 1 : bisect_left(span.starts, end)]
        yield Span(start, end, starts)
        start = end


def _add(
    found: dict[tuple[int, str], UsageSums],
    starts: Sequence[int],
    sums: Sequence[Row],
    metrics: Sequence[Row],
) -> None:
    for bucket, operation, *more in sums:
        start = starts[bucket - 1]
        found.setdefault((start, operation), UsageSums(start, operation)).add(*map(int, more))
    if len(found) > MAX_ROWS or len(metrics) > MAX_METRICS:
        raise SummaryTooLarge
    for bucket, operation, name, total in metrics:
        totals = found[starts[bucket - 1], operation].metrics
        totals[name] = totals.get(name, 0) + int(total)
