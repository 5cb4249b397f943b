CREATE TABLE IF NOT EXISTS layout (checksum String) ENGINE = MergeTree ORDER BY checksum;

CREATE TABLE IF NOT EXISTS event (
    tenant LowCardinality(String),
    product LowCardinality(String),
    device String,
    epoch UInt64,
    home String,
    at Int64 CODEC(DoubleDelta, LZ4),
    received Int64 CODEC(DoubleDelta, LZ4),
    node LowCardinality(String),
    sequence UInt64 CODEC(DoubleDelta, LZ4),
    counted UInt8,
    count UInt64 CODEC(DoubleDelta, LZ4),
    report UInt8,
    metrics Array(LowCardinality(String)),
    kinds Array(UInt8),
    numbers Array(Float64) CODEC(ZSTD(1)),
    exacts Array(Int64) CODEC(ZSTD(1)),
    texts Array(String) CODEC(ZSTD(1)),
    appended DateTime DEFAULT now(),
    INDEX by_sequence sequence TYPE minmax GRANULARITY 1
) ENGINE = MergeTree PARTITION BY toMonday(appended) ORDER BY (tenant, device, epoch, at, node, sequence)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS awaited AS event;

CREATE TABLE IF NOT EXISTS newest (
    tenant String,
    device String,
    epoch UInt64,
    metric String,
    newest AggregateFunction(argMax, Tuple(Int64, UInt8, Float64, Int64, String), Tuple(Int64, UInt64, UInt32))
) ENGINE = AggregatingMergeTree ORDER BY (tenant, device, epoch, metric)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS newest_of_event TO newest AS
SELECT tenant, device, epoch, metric,
    argMaxState(tuple(at, kind, number, exact, text), tuple(at, sequence, place)) AS newest
FROM event
ARRAY JOIN metrics AS metric, kinds AS kind, numbers AS number, exacts AS exact, texts AS text,
    arrayEnumerate(metrics) AS place
WHERE report = 0
GROUP BY tenant, device, epoch, metric;

CREATE TABLE IF NOT EXISTS mark (
    node String,
    sequence UInt64
) ENGINE = ReplacingMergeTree(sequence) ORDER BY node
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS checkpoint (
    node String,
    consumer String,
    sequence UInt64
) ENGINE = ReplacingMergeTree(sequence) ORDER BY (node, consumer)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
