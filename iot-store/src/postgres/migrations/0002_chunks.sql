-- Who seals or forgets locks this row.
INSERT INTO counter (name, value) VALUES ('maintenance', 0);

-- What is forgotten together. Form 0: reports, whose chunks are in a table `chunk_<part>` (id, body); 1, 2, 3: rollups of a
-- minute, an hour, a day. For `kept` days after the end of a span.
CREATE TABLE part (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    form BIGINT NOT NULL,
    kept BIGINT NOT NULL,
    span BIGINT NOT NULL,
    UNIQUE (form, kept, span)
);

-- What is in the chunks, each of one series and one node. Stats is a version byte and a CBOR item.
CREATE TABLE chunk (
    id BIGINT PRIMARY KEY,
    part BIGINT NOT NULL,
    series BIGINT NOT NULL,
    node BIGINT NOT NULL,
    rows BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    stats BYTEA NOT NULL
);
CREATE INDEX chunk_of_series ON chunk (series, first_at);
CREATE INDEX chunk_of_part ON chunk (part);

CREATE TABLE rollup (
    part BIGINT NOT NULL,
    series BIGINT NOT NULL,
    metric TEXT COLLATE "C" NOT NULL,
    -- Which 32,768 buckets, counted from 1970.
    era BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (series, metric, part, era)
);
CREATE INDEX rollup_of_part ON rollup (part);
-- It is compressed as it comes.
ALTER TABLE rollup ALTER COLUMN body SET STORAGE EXTERNAL;

-- The counts of devices in what is sealed, as runs without gaps; both ends are included.
CREATE TABLE run (
    series BIGINT NOT NULL,
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    PRIMARY KEY (series, first)
);

-- Events that are in chunks, and that a consumer of the log has not seen.
ALTER TABLE event ADD COLUMN sealed BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX event_sealed ON event (node, sequence) WHERE sealed;
