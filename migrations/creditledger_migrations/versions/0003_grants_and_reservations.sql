-- Purpose: what grants with times, allowances, reservations, refunds and purchases need. Locks: account and grant_lot, for
-- as long as one index on account takes. Rollout: before the servers that need it; older ones go on working until one of
-- those has made a grant that expires or a reservation.

-- The ledger's clock, in one place: tests replace it, and nothing else does.
CREATE FUNCTION ledger_time() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
    AS 'SELECT clock_timestamp()';

-- lots has two more numbers where they are not 0: [grant revision, priority, remaining, expire time, held by reservations].
ALTER TABLE account
    ADD COLUMN next_due_time timestamptz,  -- not later than the next instant at which a grant or reservation falls due
    ADD COLUMN pending json NOT NULL DEFAULT '[]',  -- grants to come: [[grant revision, priority, amount, effective time, expire time], ...]
    ADD COLUMN allowances json NOT NULL DEFAULT '{}',  -- {period: start of the last one whose allowance it had}
    ADD COLUMN reservations integer NOT NULL DEFAULT 0 CHECK (reservations BETWEEN 0 AND 1000);  -- active ones

-- What the sweeper asks. A deduction leaves next_due_time as it is, so that its updates stay heap-only.
CREATE INDEX account_next_due_time_idx ON account (next_due_time) WHERE next_due_time IS NOT NULL;

ALTER TABLE grant_lot
    ADD COLUMN effective_time timestamptz,
    ADD COLUMN expire_time timestamptz,
    ADD COLUMN void_time timestamptz;

CREATE TABLE reservation (
    account_id      text        COLLATE "C" NOT NULL,
    revision        bigint      NOT NULL,  -- of the entry that made it; names it within the account
    quantity        bigint      NOT NULL CHECK (quantity > 0),
    amount          bigint      NOT NULL CHECK (amount >= 0),
    create_time     timestamptz NOT NULL,
    expire_time     timestamptz NOT NULL,
    catalog_version integer     NOT NULL,  -- prices its commit
    state           smallint    NOT NULL CHECK (state BETWEEN 1 AND 4),
    operation       text        COLLATE "C" NOT NULL,
    draws           text        COLLATE "C",  -- as in entry
    metrics         json,
    PRIMARY KEY (account_id, revision)
) WITH (fillfactor = 70);
CREATE INDEX reservation_active_idx ON reservation (account_id, expire_time) WHERE state = 1;

-- How much of an entry's cost was given back; no row: nothing.
CREATE TABLE refund (
    account_id text   COLLATE "C" NOT NULL,
    revision   bigint NOT NULL,  -- of the deduction or commit
    refunded   bigint NOT NULL CHECK (refunded > 0),
    PRIMARY KEY (account_id, revision)
);

-- Every payment that was credited, once in the whole ledger.
CREATE TABLE purchase (
    payment_reference text   COLLATE "C" PRIMARY KEY,
    account_id        text   COLLATE "C" NOT NULL,
    revision          bigint NOT NULL,  -- of the grant
    package_id        text   COLLATE "C" NOT NULL
);
