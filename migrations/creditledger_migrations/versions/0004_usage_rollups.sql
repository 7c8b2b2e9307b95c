-- Purpose: sums of usage for SummarizeUsage, see docs/decisions/0010. Locks: none, everything is new. Rollout: any time,
-- with servers running; the tables fill when somebody asks for a summary, or by 'creditledger-server rebuild-usage'.

-- Up to which revision an account's entries are summed: always whole chunks of 1,000 entries. Its row is the lock of whoever sums.
CREATE TABLE usage_rollup_head (
    account_id text   COLLATE "C" PRIMARY KEY,
    revision   bigint NOT NULL CHECK (revision >= 0 AND revision % 1000 = 0)
);

-- What the entries of one chunk that fell into one quarter of an hour add up to, per operation. Written once: chunk n holds
-- the revisions from 1,000 n + 1 to 1,000 (n + 1), so its sums are the same whoever computes them, and when.
CREATE TABLE usage_rollup (
    account_id       text        COLLATE "C" NOT NULL REFERENCES usage_rollup_head,
    quarter_start    timestamptz NOT NULL,
    chunk            bigint      NOT NULL,
    operation        text        COLLATE "C" NOT NULL,
    first_time       timestamptz NOT NULL,  -- of the oldest entry of this chunk and quarter, whatever its operation
    last_time        timestamptz NOT NULL,  -- of the newest one
    uses             numeric     NOT NULL,  -- sums are numeric, because those of 10^15 soon exceed a bigint
    failures         numeric     NOT NULL,
    credits          numeric     NOT NULL,  -- charged less refunded: may be negative
    response_time_us numeric     NOT NULL,
    response_times   bigint      NOT NULL,  -- how many entries told one
    metrics          jsonb,                 -- {name: sum}; NULL: none
    PRIMARY KEY (account_id, quarter_start, chunk, operation)
);
