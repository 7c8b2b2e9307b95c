-- Purpose: the commit log forgets what is old. Locks: ledger, for a moment. Rollout: before the servers that need it.

-- Below this position rows were deleted: a cursor of all accounts from before it cannot be resumed.
ALTER TABLE ledger ADD COLUMN commit_log_from bigint NOT NULL DEFAULT 0;
