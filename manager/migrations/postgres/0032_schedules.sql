-- Jobs that begin by themselves.
CREATE TABLE schedule (
    name     TEXT    NOT NULL PRIMARY KEY,
    cron     TEXT    NOT NULL, -- when, in UTC
    plan     TEXT    NOT NULL, -- what, JSON
    version  BIGINT  NOT NULL, -- counts changes by people
    made_by  TEXT    NOT NULL,
    next     BIGINT  NOT NULL, -- unix time in ms, as is the next: when it is due
    last     BIGINT ,          -- when it was
    last_job TEXT,             -- what it began then
    trouble  TEXT              -- or why nothing
);

CREATE INDEX schedule_by_next ON schedule (next);
