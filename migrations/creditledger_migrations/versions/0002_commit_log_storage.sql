-- Purpose: stop trying to compress the arrays of commit_log, which took most of the time of writing a row for several
-- hundred accounts. Locks: commit_log, for a moment; no row is rewritten. Rollout: any time, with servers running.
ALTER TABLE commit_log
    ALTER COLUMN account_ids SET STORAGE EXTERNAL,
    ALTER COLUMN first_revisions SET STORAGE EXTERNAL,
    ALTER COLUMN last_revisions SET STORAGE EXTERNAL;
