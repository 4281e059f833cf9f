-- Images that are to be on nodes. Ids grow with time.
CREATE TABLE job (
    id       TEXT    NOT NULL PRIMARY KEY,
    ended    INTEGER NOT NULL, -- 1 when nothing is left to do, else 0
    version  INTEGER NOT NULL, -- counts changes
    summary  TEXT    NOT NULL, -- the job at a glance, JSON
    document TEXT    NOT NULL  -- all of it, JSON
) STRICT, WITHOUT ROWID;

CREATE INDEX job_by_end ON job (ended, id);
