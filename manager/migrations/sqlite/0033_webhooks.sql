-- Where registries tell of pushes.
CREATE TABLE webhook (
    name    TEXT    NOT NULL PRIMARY KEY,
    wiring  TEXT    NOT NULL, -- what it does, JSON
    secret  BLOB    NOT NULL, -- SHA-256 of a secret that is sent as it is; one that signs itself
    sealed  INTEGER NOT NULL, -- 1 when that is sealed, else 0
    version INTEGER NOT NULL, -- counts changes
    made_by TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
