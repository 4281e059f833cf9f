-- Who may use the API.
CREATE TABLE account (
    name     TEXT    NOT NULL PRIMARY KEY,
    role     TEXT    NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    password TEXT    NOT NULL, -- argon2id, as a PHC string
    created  BIGINT NOT NULL, -- unix time in ms, here and below
    version  BIGINT NOT NULL  -- counts changes
);

-- Personal access tokens. What is kept of one is its SHA-256: it has 256 random bits.
CREATE TABLE token (
    id      TEXT    NOT NULL PRIMARY KEY,
    account TEXT    NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    label   TEXT    NOT NULL,
    role    TEXT    NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')), -- at most
    hash    BYTEA    NOT NULL UNIQUE,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL
);

CREATE TABLE session (
    hash    BYTEA    NOT NULL PRIMARY KEY,
    account TEXT    NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    csrf    TEXT    NOT NULL,
    expires BIGINT NOT NULL
);

-- Links that make the first administrator.
CREATE TABLE invitation (
    hash    BYTEA    NOT NULL PRIMARY KEY,
    expires BIGINT NOT NULL
);

-- Who changed what. Rows are added and never touched again.
CREATE TABLE audit (
    seq    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     BIGINT NOT NULL,
    actor  TEXT    NOT NULL,
    action TEXT    NOT NULL,
    object TEXT    NOT NULL,
    detail TEXT    NOT NULL
);

CREATE FUNCTION audit_is_only_added_to() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit is only added to'; END $$;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_is_only_added_to();
