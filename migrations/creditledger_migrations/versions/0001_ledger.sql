-- Purpose: the ledger's tables. Locks: none, everything is new. Rollout: before the first server.
--
-- account_id leads every primary key and unique constraint of a hot table, so that data can be distributed by it, and is
-- COLLATE "C", so that Postgres and Python sort it alike: that is the order in which locks are taken.

-- What this ledger is. One row, written at the first start and never changed.
CREATE TABLE ledger (
    singleton   boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    ledger_id   uuid        NOT NULL,
    decimals    smallint    NOT NULL CHECK (decimals BETWEEN 0 AND 9),
    cursor_key  bytea       NOT NULL CHECK (octet_length(cursor_key) = 32),  -- signs WatchUsage cursors and page tokens
    create_time timestamptz NOT NULL
);

-- Every catalog that ever was current; the current one has the highest version.
CREATE TABLE catalog (
    version     integer     PRIMARY KEY CHECK (version > 0),
    document    json        NOT NULL,
    request_id  text        COLLATE "C" UNIQUE,
    fingerprint bytea,
    create_time timestamptz NOT NULL
);

-- One row per account: what the write path locks. No index on anything that a deduction changes and room on each page,
-- so that updates stay heap-only.
CREATE TABLE account (
    account_id      text        COLLATE "C" PRIMARY KEY,
    revision        bigint      NOT NULL CHECK (revision > 0),
    available       bigint      NOT NULL CHECK (available >= 0),
    reserved        bigint      NOT NULL CHECK (reserved >= 0),
    granted         bigint      NOT NULL CHECK (granted BETWEEN 0 AND 9000000000000000000),
    spent           bigint      NOT NULL CHECK (spent >= 0),
    forfeited       bigint      NOT NULL CHECK (forfeited >= 0),
    commit_position bigint      NOT NULL,  -- the position of its newest row in commit_log
    last_time       timestamptz NOT NULL,  -- create_time of its newest entry
    create_time     timestamptz NOT NULL,
    state           smallint    NOT NULL CHECK (state BETWEEN 1 AND 3),
    level           text        COLLATE "C" NOT NULL,
    head_hash       bytea       NOT NULL CHECK (octet_length(head_hash) = 32),
    lots            json        NOT NULL,  -- what is left of its live grants: [[grant revision, priority, remaining], ...]
    labels          json        NOT NULL,
    CONSTRAINT account_adds_up CHECK (granted = available + reserved + spent + forfeited)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000
);

-- The history: append-only, one row per mutation. Every other table can be recomputed from it.
CREATE TABLE entry (
    revision         bigint      NOT NULL CHECK (revision > 0),
    create_time      timestamptz NOT NULL,
    amount           bigint      NOT NULL,
    cost             bigint      NOT NULL CHECK (cost >= 0),
    available        bigint      NOT NULL CHECK (available >= 0),
    reserved         bigint      NOT NULL CHECK (reserved >= 0),
    spent            bigint      NOT NULL CHECK (spent >= 0),
    forfeited        bigint      NOT NULL CHECK (forfeited >= 0),
    quantity         bigint      NOT NULL CHECK (quantity >= 0),
    catalog_version  integer     NOT NULL,
    kind             smallint    NOT NULL,
    account_id       text        COLLATE "C" NOT NULL,
    operation        text        COLLATE "C",
    request_id       text        COLLATE "C",
    fingerprint      bytea       CHECK (octet_length(fingerprint) = 32),
    hash             bytea       NOT NULL CHECK (octet_length(hash) = 32),
    draws            text        COLLATE "C",  -- 'grant revision:amount,...'
    limits           text        COLLATE "C",  -- 'period:limit:used:reset time in microseconds,...' as the answer told them
    usage            json,
    details          json,                     -- what only some kinds have: level, labels, reason, terms of a grant
    PRIMARY KEY (account_id, revision),
    CONSTRAINT entry_request_id_key UNIQUE (account_id, request_id)
);

-- Terms of every grant; what is left of the live ones is in account.lots, where the lock already is.
CREATE TABLE grant_lot (
    account_id  text        COLLATE "C" NOT NULL,
    revision    bigint      NOT NULL,  -- of the entry that granted it; names it within the account
    amount      bigint      NOT NULL CHECK (amount > 0),
    priority    integer     NOT NULL,
    source      smallint    NOT NULL,
    create_time timestamptz NOT NULL,
    reason      text        NOT NULL,
    labels      json        NOT NULL,
    PRIMARY KEY (account_id, revision)
);

-- Uses of limited operations in the period that began at period_start; a later period takes the row over.
CREATE TABLE limit_use (
    account_id   text        COLLATE "C" NOT NULL,
    operation    text        COLLATE "C" NOT NULL,
    period       smallint    NOT NULL CHECK (period BETWEEN 1 AND 4),
    period_start timestamptz NOT NULL,
    uses         bigint      NOT NULL CHECK (uses >= 0),
    PRIMARY KEY (account_id, operation, period)
) WITH (fillfactor = 50);

-- One row per committing transaction: which entries it wrote. What WatchUsage tails; see docs/decisions/0003.
CREATE TABLE commit_log (
    position        bigint      NOT NULL,
    account_id      text        COLLATE "C" NOT NULL,  -- the first of account_ids: decides where the row lives
    account_ids     text[]      NOT NULL,
    first_revisions bigint[]    NOT NULL,
    last_revisions  bigint[]    NOT NULL
);
CREATE INDEX commit_log_position_idx ON commit_log (position);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER entry_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER catalog_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON catalog
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
