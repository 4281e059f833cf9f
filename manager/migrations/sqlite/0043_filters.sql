-- What the audit is looked through by, besides the order of its lines.
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE INDEX audit_by_action ON audit (action, seq);
CREATE INDEX audit_by_object ON audit (object, seq);

-- Of a job's summary, what jobs are looked for by.
ALTER TABLE job ADD COLUMN phase TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN made_by TEXT NOT NULL DEFAULT '';

UPDATE job SET phase = coalesce(json_extract(summary, '$.phase'), ''),
    made_by = coalesce(json_extract(summary, '$.by'), '');
