-- Content that every node is to remove. Numbers only grow.
CREATE TABLE removal (
    number BIGINT PRIMARY KEY,
    content TEXT NOT NULL,
    name TEXT NOT NULL,
    actor TEXT NOT NULL,
    asked_ms BIGINT NOT NULL
);
