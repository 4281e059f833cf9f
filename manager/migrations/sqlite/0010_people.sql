-- Who may use the API.
CREATE TABLE account (
    name     TEXT    NOT NULL PRIMARY KEY,
    role     TEXT    NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    password TEXT    NOT NULL, -- argon2id, as a PHC string
    created  INTEGER NOT NULL, -- unix time in ms, here and below
    version  INTEGER NOT NULL  -- counts changes
) STRICT, WITHOUT ROWID;

-- Personal access tokens. What is kept of one is its SHA-256: it has 256 random bits.
CREATE TABLE token (
    id      TEXT    NOT NULL PRIMARY KEY,
    account TEXT    NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    label   TEXT    NOT NULL,
    role    TEXT    NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')), -- at most
    hash    BLOB    NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    hash    BLOB    NOT NULL PRIMARY KEY,
    account TEXT    NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    csrf    TEXT    NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Links that make the first administrator.
CREATE TABLE invitation (
    hash    BLOB    NOT NULL PRIMARY KEY,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who changed what. Rows are added and never touched again.
CREATE TABLE audit (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    actor  TEXT    NOT NULL,
    action TEXT    NOT NULL,
    object TEXT    NOT NULL,
    detail TEXT    NOT NULL
) STRICT;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is only added to'); END;

CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is only added to'); END;
