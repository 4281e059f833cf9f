-- The certificate authority, as one document that is replaced as a whole: one row. The revision tells
-- whether somebody else has replaced it since it was read.
CREATE TABLE authority (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    document TEXT    NOT NULL -- JSON
) STRICT;

INSERT INTO authority (id, revision, document) VALUES (1, 0, '{}');
