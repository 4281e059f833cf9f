-- Of an account of elsewhere: its provider, and the provider's id of it.
ALTER TABLE account ADD COLUMN subject TEXT;

CREATE UNIQUE INDEX account_by_subject ON account (subject);

-- Logins on their way there. Both keys are hashes.
CREATE TABLE oidc_login (
    state    BYTEA   NOT NULL PRIMARY KEY,
    browser  BYTEA   NOT NULL,
    document TEXT    NOT NULL, -- JSON
    expires  BIGINT  NOT NULL  -- unix time in ms
);
