-- Texts are compared by bytes, whatever the database's language. Times are microseconds since 1970.
CREATE TABLE counter (
    name TEXT COLLATE "C" PRIMARY KEY,
    value BIGINT NOT NULL
) WITH (fillfactor = 10);
INSERT INTO counter (name, value) VALUES ('revision', 0), ('changes_forgotten', 0), ('session_epoch', 0);

-- A body is a JSON text and kept as it came; the view document shows it as jsonb.
CREATE TABLE record (
    kind TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    format INTEGER NOT NULL,
    body TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, key)
);

CREATE FUNCTION as_jsonb(body TEXT) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN body::jsonb;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;
CREATE VIEW document AS SELECT kind, key, version, format, as_jsonb(body) AS body FROM record;

CREATE TABLE index_key (
    kind TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    is_unique BOOLEAN NOT NULL,
    PRIMARY KEY (kind, name, value, key)
);
CREATE UNIQUE INDEX index_key_unique ON index_key (kind, name, value) WHERE is_unique;
CREATE INDEX index_key_of_record ON index_key (kind, key);

CREATE TABLE change (
    revision BIGINT NOT NULL,
    place INTEGER NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (revision, place)
);

CREATE TABLE audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL,
    tenant TEXT COLLATE "C" NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    refused TEXT COLLATE "C"
);
CREATE INDEX audit_of_tenant ON audit (tenant, id);

-- Numbers sessions and messages: they are known before their rows are written.
CREATE SEQUENCE row_id;

-- expires_at and due_at are NULL while the session is open.
CREATE TABLE session (
    id BIGINT PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    epoch BIGINT NOT NULL,
    last_position BIGINT NOT NULL DEFAULT 0,
    queued BIGINT NOT NULL DEFAULT 0,
    sent_through BIGINT NOT NULL DEFAULT 0,
    will BYTEA,
    will_delay BIGINT,
    keep BIGINT NOT NULL,
    expires_at BIGINT,
    due_at BIGINT
) WITH (fillfactor = 80);
CREATE INDEX session_due ON session (due_at, name) WHERE due_at IS NOT NULL;

CREATE TABLE subscription (
    session BIGINT NOT NULL,
    filter TEXT COLLATE "C" NOT NULL,
    qos SMALLINT NOT NULL,
    no_local BOOLEAN NOT NULL,
    retain_as_published BOOLEAN NOT NULL,
    identifier BIGINT,
    PRIMARY KEY (session, filter)
);

CREATE TABLE received (
    session BIGINT NOT NULL,
    packet_id INTEGER NOT NULL,
    PRIMARY KEY (session, packet_id)
);

-- A message is stored once and removed with the last row of queue that refers to it.
CREATE TABLE message (
    id BIGINT PRIMARY KEY,
    uses BIGINT NOT NULL,
    body BYTEA NOT NULL
);

CREATE TABLE queue (
    session BIGINT NOT NULL,
    position BIGINT NOT NULL,
    message BIGINT NOT NULL,
    qos SMALLINT NOT NULL,
    retain BOOLEAN NOT NULL,
    identifiers BYTEA,
    released BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (session, position)
);

CREATE TABLE retained (
    tenant TEXT COLLATE "C" NOT NULL,
    topic TEXT COLLATE "C" NOT NULL,
    expires BIGINT,
    body BYTEA NOT NULL,
    PRIMARY KEY (tenant, topic)
);
CREATE INDEX retained_expiry ON retained (tenant, expires) WHERE expires IS NOT NULL;

CREATE TABLE retained_count (
    tenant TEXT COLLATE "C" PRIMARY KEY,
    messages BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE node (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    sequence BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

CREATE TABLE series (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant TEXT COLLATE "C" NOT NULL,
    device TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    UNIQUE (tenant, device, epoch)
);

-- One row per message. The body is a version byte and a CBOR item.
CREATE TABLE event (
    node BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    series BIGINT NOT NULL,
    at BIGINT NOT NULL,
    received BIGINT NOT NULL,
    device_sequence BIGINT,
    product TEXT COLLATE "C" NOT NULL,
    home TEXT COLLATE "C",
    body BYTEA NOT NULL,
    PRIMARY KEY (node, sequence)
);
CREATE INDEX event_of_series ON event (series, at, sequence, node);
CREATE UNIQUE INDEX event_repeat ON event (series, device_sequence) WHERE device_sequence IS NOT NULL;
-- Rows come about in the order of their receipt, so that a summary of each few pages is enough to find old ones.
CREATE INDEX event_received ON event USING brin (received) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE latest (
    series BIGINT NOT NULL,
    metric TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    value BYTEA NOT NULL,
    PRIMARY KEY (series, metric)
) WITH (fillfactor = 80);

CREATE TABLE checkpoint (
    node TEXT COLLATE "C" NOT NULL,
    consumer TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    PRIMARY KEY (node, consumer)
) WITH (fillfactor = 50);
