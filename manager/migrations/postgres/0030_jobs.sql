-- Images that are to be on nodes. Ids grow with time.
CREATE TABLE job (
    id       TEXT    NOT NULL PRIMARY KEY,
    ended    BIGINT NOT NULL, -- 1 when nothing is left to do, else 0
    version  BIGINT NOT NULL, -- counts changes
    summary  TEXT    NOT NULL, -- the job at a glance, JSON
    document TEXT    NOT NULL  -- all of it, JSON
);

CREATE INDEX job_by_end ON job (ended, id);
