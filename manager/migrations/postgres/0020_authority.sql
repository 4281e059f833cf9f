-- The certificate authority, as one document that is replaced as a whole: one row. The revision tells
-- whether somebody else has replaced it since it was read.
CREATE TABLE authority (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    revision BIGINT  NOT NULL,
    document TEXT    NOT NULL -- JSON
);

INSERT INTO authority (only, revision, document) VALUES (1, 0, '{}');
