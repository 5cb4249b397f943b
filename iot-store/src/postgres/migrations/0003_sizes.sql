-- What waits is bounded in bytes, too. What waited before counts as nothing: it is on its way out.
ALTER TABLE session ADD COLUMN queued_size BIGINT NOT NULL DEFAULT 0;
ALTER TABLE queue ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
ALTER TABLE retained ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
ALTER TABLE retained_count ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
UPDATE retained SET size = length(body);
UPDATE retained_count SET size =
    (SELECT coalesce(sum(size), 0) FROM retained WHERE retained.tenant = retained_count.tenant);
