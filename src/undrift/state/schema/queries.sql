-- Every statement that state/ runs, by name. Parameters are named; times are microseconds since 1970 UTC.
-- A list comes as one JSON array (json_each), so a statement's text never depends on its values.

-- name: head
SELECT value FROM setting WHERE name = 'journal.head';

-- name: insert_event
INSERT INTO event (seq, kind, subject, at, idempotency, body) VALUES (:seq, :kind, :subject, :at, :key, :body);

-- name: event_by_key
SELECT body FROM event WHERE idempotency = :key;

-- name: events
SELECT seq, kind, subject, at, idempotency, body FROM event
WHERE seq > :after AND (:until IS NULL OR at <= :until) ORDER BY seq LIMIT :limit;

-- name: events_of_subject
SELECT seq, kind, subject, at, idempotency, body FROM event
WHERE subject = :subject AND seq > :after AND (:until IS NULL OR at <= :until)
  AND (:kinds IS NULL OR kind IN (SELECT value FROM json_each(:kinds)))
ORDER BY seq LIMIT :limit;

-- name: events_of_kinds
SELECT seq, kind, subject, at, idempotency, body FROM event
WHERE kind IN (SELECT value FROM json_each(:kinds)) AND seq > :after AND (:until IS NULL OR at <= :until)
ORDER BY seq LIMIT :limit;

-- name: projection
SELECT seq, value FROM projection WHERE name = :name AND key = :key;

-- name: projections
SELECT key, value FROM projection WHERE name = :name ORDER BY key;

-- name: newest_projection
SELECT name, key, seq FROM projection ORDER BY seq DESC LIMIT 1;

-- name: put_projection
INSERT INTO projection (name, key, seq, value) VALUES (:name, :key, :seq, :value)
ON CONFLICT (name, key) DO UPDATE SET seq = excluded.seq, value = excluded.value;

-- name: delete_projection
DELETE FROM projection WHERE name = :name AND key = :key;

-- name: delete_projections
DELETE FROM projection WHERE name IN (SELECT value FROM json_each(:names));

-- name: setting
SELECT value FROM setting WHERE name = :name;

-- name: put_setting
INSERT INTO setting (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: seen
SELECT id FROM seen WHERE id IN (SELECT value FROM json_each(:ids));

-- name: mark_seen
INSERT INTO seen (id, at) VALUES (:id, :at) ON CONFLICT (id) DO NOTHING;

-- name: forget_seen
DELETE FROM seen WHERE at < :before;

-- name: insert_job
INSERT INTO job (id, kind, key, payload, state, run_after) VALUES (:id, :kind, :key, :payload, 'ready', :run_after)
ON CONFLICT (key) DO NOTHING;

-- name: claimable_job
SELECT id, kind, key, payload, attempts, fence FROM job
WHERE kind IN (SELECT value FROM json_each(:kinds))
  AND ((state = 'ready' AND run_after <= :now) OR (state = 'running' AND expires_at <= :now))
ORDER BY run_after, id LIMIT 1;

-- name: take_job
UPDATE job SET state = 'running', holder = :holder, fence = fence + 1, attempts = attempts + 1, expires_at = :expires_at
WHERE id = :id;

-- name: extend_job
UPDATE job SET expires_at = :expires_at WHERE id = :id AND fence = :fence AND state = 'running';

-- name: finish_job
UPDATE job SET state = 'done', result = :result, error = NULL, holder = NULL, expires_at = NULL
WHERE id = :id AND fence = :fence AND state = 'running';

-- name: give_up_job
UPDATE job SET state = 'failed', error = :error, holder = NULL, expires_at = NULL
WHERE id = :id AND fence = :fence AND state = 'running';

-- name: retry_job
UPDATE job SET state = 'ready', error = :error, run_after = :run_after, holder = NULL, expires_at = NULL
WHERE id = :id AND fence = :fence AND state = 'running';

-- name: job_counts
SELECT state, count(*) AS n FROM job GROUP BY state;

-- name: job_outcome
SELECT state, result, error FROM job WHERE key = :key;

-- name: unfinished_jobs
SELECT id, kind, key, payload, attempts, fence, coalesce(holder, '') AS holder FROM job
WHERE state IN ('ready', 'running') AND kind IN (SELECT value FROM json_each(:kinds)) ORDER BY run_after, id;

-- name: lease
SELECT holder, fence, expires_at FROM lease WHERE name = :name;

-- name: put_lease
INSERT INTO lease (name, holder, fence, expires_at) VALUES (:name, :holder, :fence, :expires_at)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = excluded.fence, expires_at = excluded.expires_at;

-- name: renew_lease
UPDATE lease SET expires_at = :expires_at WHERE name = :name AND fence = :fence AND expires_at > 0;
