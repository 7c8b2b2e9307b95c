-- Purpose: uses that count towards limits live in the account's row, which every use writes anyway: docs/decisions/0011.
-- Locks: account, for as long as it takes to write those with counted uses. Rollout: stop the older servers first, they
-- need the table that goes.

ALTER TABLE account
    ADD COLUMN uses text COLLATE "C" NOT NULL DEFAULT '';  -- operation:period:days from 1970 to the period's start:uses,...

UPDATE account SET uses = counted.list FROM (
    SELECT account_id, string_agg(
        concat_ws(':', operation, period, extract(epoch FROM period_start)::bigint / 86400, uses), ','
        ORDER BY operation, period) AS list
    FROM limit_use GROUP BY account_id
) AS counted WHERE account.account_id = counted.account_id;

DROP TABLE limit_use;
