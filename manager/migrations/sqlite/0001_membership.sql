-- Who belongs to the cluster. Rows are removed with the host: what is here is believed at a start
-- until the hosts had time to report.
CREATE TABLE host (
    role         TEXT    NOT NULL CHECK (role IN ('mirror', 'seed', 'scheduler')),
    id           TEXT    NOT NULL,
    address      TEXT    NOT NULL,
    labels       TEXT    NOT NULL, -- a JSON object of strings
    signing_key  BLOB,             -- Ed25519, 32 bytes
    upload_slots INTEGER NOT NULL,
    last_seen    INTEGER NOT NULL, -- unix time in ms
    PRIMARY KEY (role, id)
) STRICT, WITHOUT ROWID;

-- The last version told to anybody: one row.
CREATE TABLE configuration (
    only    INTEGER PRIMARY KEY CHECK (only = 1),
    version INTEGER NOT NULL
) STRICT;

INSERT INTO configuration (only, version) VALUES (1, 0);
