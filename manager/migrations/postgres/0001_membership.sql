-- Who belongs to the cluster. Rows are removed with the host: what is here is believed at a start
-- until the hosts had time to report.
CREATE TABLE host (
    role         TEXT   NOT NULL CHECK (role IN ('mirror', 'seed', 'scheduler')),
    id           TEXT   NOT NULL,
    address      TEXT   NOT NULL,
    labels       TEXT   NOT NULL, -- a JSON object of strings
    signing_key  BYTEA,           -- Ed25519, 32 bytes
    upload_slots BIGINT NOT NULL,
    last_seen    BIGINT NOT NULL, -- unix time in ms
    PRIMARY KEY (role, id)
);

-- The last version told to anybody: one row.
CREATE TABLE configuration (
    "only"  BIGINT PRIMARY KEY CHECK ("only" = 1),
    version BIGINT NOT NULL
);

INSERT INTO configuration ("only", version) VALUES (1, 0);
