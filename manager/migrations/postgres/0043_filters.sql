-- What the audit is looked through by, besides the order of its lines. Actors are in the order of their
-- bytes, as in SQLite, so that those that begin alike are next to each other.
ALTER TABLE audit ALTER COLUMN actor TYPE TEXT COLLATE "C";

CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE INDEX audit_by_action ON audit (action, seq);
CREATE INDEX audit_by_object ON audit (object, seq);

-- Of a job's summary, what jobs are looked for by.
ALTER TABLE job ADD COLUMN phase TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN made_by TEXT COLLATE "C" NOT NULL DEFAULT '';

UPDATE job SET phase = coalesce(summary::json ->> 'phase', ''),
    made_by = coalesce(summary::json ->> 'by', '');
