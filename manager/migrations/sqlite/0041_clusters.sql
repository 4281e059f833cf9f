-- Which hosts hear of which schedulers and seeds; hosts that fit none are of one more.
CREATE TABLE cluster (
    name     TEXT    NOT NULL PRIMARY KEY,
    document TEXT    NOT NULL, -- what is said of it, JSON
    version  INTEGER NOT NULL, -- counts changes
    made_by  TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
