-- Where registries tell of pushes.
CREATE TABLE webhook (
    name    TEXT    NOT NULL PRIMARY KEY,
    wiring  TEXT    NOT NULL, -- what it does, JSON
    secret  BYTEA   NOT NULL, -- SHA-256 of a secret that is sent as it is; one that signs itself
    sealed  BIGINT  NOT NULL, -- 1 when that is sealed, else 0
    version BIGINT  NOT NULL, -- counts changes
    made_by TEXT    NOT NULL
);
