-- The request that made a job, when its caller gave it a key of its own: a hash of account and key.
ALTER TABLE job ADD COLUMN request TEXT;

CREATE UNIQUE INDEX job_by_request ON job (request);
