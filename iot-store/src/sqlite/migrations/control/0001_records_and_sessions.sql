CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counter (name, value) VALUES ('revision', 0), ('session_epoch', 0);

CREATE TABLE record (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    format INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;

CREATE TABLE index_key (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    key TEXT NOT NULL,
    is_unique INTEGER NOT NULL,
    PRIMARY KEY (kind, name, value, key)
) WITHOUT ROWID;
CREATE UNIQUE INDEX index_key_unique ON index_key (kind, name, value) WHERE is_unique = 1;
CREATE INDEX index_key_of_record ON index_key (kind, key);

CREATE TABLE change (
    revision INTEGER NOT NULL,
    place INTEGER NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (revision, place)
) WITHOUT ROWID;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    refused TEXT
);
CREATE INDEX audit_of_tenant ON audit (tenant, id);

-- Times are microseconds since 1970; expires_at and due_at are NULL while the session is open.
CREATE TABLE session (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    last_position INTEGER NOT NULL DEFAULT 0,
    queued INTEGER NOT NULL DEFAULT 0,
    sent_through INTEGER NOT NULL DEFAULT 0,
    will BLOB,
    will_delay INTEGER,
    keep INTEGER NOT NULL,
    expires_at INTEGER,
    due_at INTEGER
);
CREATE INDEX session_due ON session (due_at, name) WHERE due_at IS NOT NULL;

CREATE TABLE subscription (
    session INTEGER NOT NULL,
    filter TEXT NOT NULL,
    qos INTEGER NOT NULL,
    no_local INTEGER NOT NULL,
    retain_as_published INTEGER NOT NULL,
    identifier INTEGER,
    PRIMARY KEY (session, filter)
) WITHOUT ROWID;

CREATE TABLE received (
    session INTEGER NOT NULL,
    packet_id INTEGER NOT NULL,
    PRIMARY KEY (session, packet_id)
) WITHOUT ROWID;

-- A message is stored once and removed with the last row of queue that refers to it.
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    uses INTEGER NOT NULL,
    body BLOB NOT NULL
);

CREATE TABLE queue (
    session INTEGER NOT NULL,
    position INTEGER NOT NULL,
    message INTEGER NOT NULL,
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    identifiers BLOB,
    released INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (session, position)
) WITHOUT ROWID;

CREATE TABLE retained (
    tenant TEXT NOT NULL,
    topic TEXT NOT NULL,
    expires INTEGER,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, topic)
) WITHOUT ROWID;
CREATE INDEX retained_expiry ON retained (tenant, expires) WHERE expires IS NOT NULL;

CREATE TABLE retained_count (
    tenant TEXT PRIMARY KEY,
    messages INTEGER NOT NULL
) WITHOUT ROWID;
