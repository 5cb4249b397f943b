-- The log is a row of tables `event_<segment>`. One takes appends; those that are closed are sealed into chunks, series by
-- series in ascending order of ids, and dropped when no consumer waits for them.
CREATE TABLE segment (
    id INTEGER PRIMARY KEY,
    -- The lowest sequence it may hold.
    first INTEGER NOT NULL,
    -- When its first event was received; NULL while there is none.
    opened INTEGER,
    closed INTEGER NOT NULL DEFAULT 0,
    -- The series up to here are sealed.
    sealed INTEGER NOT NULL DEFAULT 0
);
DROP INDEX event_of_series;
DROP INDEX event_received;
ALTER TABLE event RENAME TO event_1;
INSERT INTO segment (id, first, opened, closed)
    SELECT 1, 1, min(received), count(*) > 0 FROM (SELECT received FROM event_1 ORDER BY sequence LIMIT 1);

-- What is forgotten together. Form 0: reports, whose chunks are in a table `chunk_<part>` (id, body); 1, 2, 3: rollups of a
-- minute, an hour, a day. For `kept` days after the end of a span.
CREATE TABLE part (
    id INTEGER PRIMARY KEY,
    form INTEGER NOT NULL,
    kept INTEGER NOT NULL,
    span INTEGER NOT NULL,
    UNIQUE (form, kept, span)
);

-- What is in the chunks. Stats is a version byte and a CBOR item.
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,
    part INTEGER NOT NULL,
    series INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    stats BLOB NOT NULL
);
CREATE INDEX chunk_of_series ON chunk (series, first_at);
CREATE INDEX chunk_of_part ON chunk (part, series);

CREATE TABLE rollup (
    id INTEGER PRIMARY KEY,
    part INTEGER NOT NULL,
    series INTEGER NOT NULL,
    metric TEXT NOT NULL,
    -- Which 32,768 buckets, counted from 1970.
    era INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX rollup_of_series ON rollup (series, metric, part, era);
CREATE INDEX rollup_of_part ON rollup (part);
