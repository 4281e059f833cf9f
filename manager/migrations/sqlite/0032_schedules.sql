-- Jobs that begin by themselves.
CREATE TABLE schedule (
    name     TEXT    NOT NULL PRIMARY KEY,
    cron     TEXT    NOT NULL, -- when, in UTC
    plan     TEXT    NOT NULL, -- what, JSON
    version  INTEGER NOT NULL, -- counts changes by people
    made_by  TEXT    NOT NULL,
    next     INTEGER NOT NULL, -- unix time in ms, as is the next: when it is due
    last     INTEGER,          -- when it was
    last_job TEXT,             -- what it began then
    trouble  TEXT              -- or why nothing
) STRICT, WITHOUT ROWID;

CREATE INDEX schedule_by_next ON schedule (next);
