-- Which manager hears a host: one of several managers over one database. A single one is ''.
ALTER TABLE host ADD COLUMN replica TEXT NOT NULL DEFAULT '';

-- The managers over this database.
CREATE TABLE replica (
    id      TEXT    NOT NULL PRIMARY KEY,
    heard   INTEGER NOT NULL, -- unix time in ms, by the database's clock
    changed INTEGER NOT NULL  -- counts what it wrote about hosts
) STRICT, WITHOUT ROWID;
