-- Content that every node is to remove. Numbers only grow.
CREATE TABLE removal (
    number INTEGER PRIMARY KEY,
    content TEXT NOT NULL,
    name TEXT NOT NULL,
    actor TEXT NOT NULL,
    asked_ms INTEGER NOT NULL
) STRICT;
