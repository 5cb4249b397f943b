CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counter (name, value) VALUES ('sequence', 0);

CREATE TABLE node (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    device TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    UNIQUE (tenant, device, epoch)
);

-- Times are microseconds since 1970. The body is a version byte and a CBOR item.
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    series INTEGER NOT NULL,
    at INTEGER NOT NULL,
    received INTEGER NOT NULL,
    device_sequence INTEGER,
    product TEXT NOT NULL,
    home TEXT,
    body BLOB NOT NULL
);
CREATE INDEX event_of_series ON event (series, at);
CREATE INDEX event_received ON event (received);

-- The counts of a device that the events of a series have, as runs without gaps from first to last. A device that counts
-- on has one row here, whereas an index would have one entry per event, spread over as many pages as there are devices.
CREATE TABLE run (
    series INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (series, first)
) WITHOUT ROWID;

CREATE TABLE latest (
    series INTEGER NOT NULL,
    metric TEXT NOT NULL,
    at INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (series, metric)
) WITHOUT ROWID;

CREATE TABLE checkpoint (
    node TEXT NOT NULL,
    consumer TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (node, consumer)
) WITHOUT ROWID;
