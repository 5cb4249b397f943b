"""The same work as iot-store's example `storage` does, in DuckDB and in ClickHouse (chdb), each in this process.

    peers.py duckdb|clickhouse FOLDER    FOLDER holds what `storage write` wrote

One row for each message, ordered by device and time, as their manuals advise. Durable after each batch: DuckDB syncs its log when a
transaction commits; ClickHouse is told to sync each part (`fsync_after_insert`, `fsync_part_directory`), which it
does not by default. Batches come as Arrow tables, the fastest way in from here.
"""

import json
import os
import shutil
import statistics
import sys
import time

import numpy
import pyarrow

ROW = numpy.dtype([("device", "<i4"), ("ts", "<i8")] + [(name, "<f8") for name in
                  ("temperature", "humidity", "battery", "power", "on")])
METRICS = 5
ROUNDS = 7
BATCHES = ((100, 20_000), (1_000, 200_000), (10_000, 400_000))
SPANS = (("one bucket", 1 << 40), ("hours", 3_600), ("1,000 s", 1_000))


def table(rows):
    return pyarrow.table({name: numpy.ascontiguousarray(rows[name]) for name in ROW.names})


def used(path):
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(path) for name in names)


class DuckDb:
    name = "DuckDB"

    def __init__(self, folder):
        import duckdb
        os.makedirs(folder)
        self.folder = folder
        self.connection = duckdb.connect(os.path.join(folder, "db"))

    def create(self, name):
        self.connection.execute(f'CREATE TABLE {name} (device INTEGER, ts BIGINT, temperature DOUBLE, humidity DOUBLE, '
                                f'battery DOUBLE, power DOUBLE, "on" DOUBLE)')

    def insert(self, name, batch):
        self.connection.register("batch", batch)
        self.connection.execute(f"INSERT INTO {name} SELECT * FROM batch")

    def settle(self, name):
        self.connection.execute("CHECKPOINT")

    def rows(self, sql):
        return self.connection.execute(sql).fetchnumpy()

    latest = 'SELECT device, arg_max(temperature, ts) AS value FROM {} GROUP BY device'
    bucket = ("SELECT ts // {width} AS bucket, count(temperature) AS n, min(temperature) AS low, max(temperature) AS high, "
              "sum(temperature) AS total, arg_min(temperature, ts) AS first, arg_max(temperature, ts) AS last "
              "FROM alone WHERE device = 101 GROUP BY bucket ORDER BY bucket")

    def close(self):
        self.connection.close()


class ClickHouse:
    name = "ClickHouse"

    def __init__(self, folder):
        from chdb import session
        self.folder = folder
        self.session = session.Session(folder)
        self.session.query("CREATE DATABASE IF NOT EXISTS d ENGINE = Atomic")

    def create(self, name):
        values = ", ".join(f'"{value}" Float64 CODEC(Gorilla, ZSTD(1))' for value in ROW.names[2:])
        self.session.query(f"CREATE TABLE d.{name} (device Int32 CODEC(Delta, ZSTD(1)), ts Int64 CODEC(DoubleDelta, ZSTD(1)), "
                           f"{values}) ENGINE = MergeTree ORDER BY (device, ts) "
                           "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1")

    def insert(self, name, batch):
        self.session.query(f"INSERT INTO d.{name} SELECT * FROM Python(batch)")

    def settle(self, name):
        self.session.query(f"OPTIMIZE TABLE d.{name} FINAL")

    def rows(self, sql):
        found = self.session.query(sql.replace("FROM ", "FROM d."), "ArrowStream").bytes()
        read = pyarrow.ipc.open_stream(found).read_all()
        return {name: read.column(name).to_numpy() for name in read.column_names}

    latest = 'SELECT device, argMax(temperature, ts) AS value FROM {} GROUP BY device'
    bucket = ("SELECT intDiv(ts, {width}) AS bucket, count(temperature) AS n, min(temperature) AS low, "
              "max(temperature) AS high, sum(temperature) AS total, argMin(temperature, ts) AS first, "
              "argMax(temperature, ts) AS last FROM alone WHERE device = 101 GROUP BY bucket ORDER BY bucket")

    def close(self):
        self.session.close()


def measure(engine, folder):
    def say(scale, what, unit, value):
        print(json.dumps({"engine": engine.name, "scale": scale, "what": what, "unit": unit, "value": float(value)}), flush=True)

    def timed(scale, what, run):
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            found = run()
            times.append((time.perf_counter() - began) * 1e3)
        say(scale, what, "ms", statistics.median(times))
        return found

    def fill(name, rows, batch):
        for start in range(0, len(rows), batch):
            engine.insert(name, table(rows[start:start + batch]))

    def bytes_of(name):
        if isinstance(engine, ClickHouse):
            found = engine.session.query(
                f"SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'd' AND table = '{name}'", "CSV")
            return int(str(found).strip().strip('"'))
        return used(engine.folder)

    one = numpy.fromfile(os.path.join(folder, "1x"), ROW)
    ten = numpy.fromfile(os.path.join(folder, "10x"), ROW)
    alone = numpy.fromfile(os.path.join(folder, "alone"), ROW)
    for batch, messages in BATCHES:
        engine.create(f"batches_{batch}")
        tables = [table(ten[start:start + batch]) for start in range(0, messages, batch)]
        began, cpu = time.perf_counter(), time.process_time()
        for rows in tables:
            engine.insert(f"batches_{batch}", rows)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        say(1, f"append, batches of {batch}", "points/s", METRICS * messages / seconds)
        say(1, f"append, batches of {batch}", "CPU us/point", cpu * 1e6 / (METRICS * messages))
    for scale, rows in ((1, one), (10, ten)):
        name = f"x{scale}"
        engine.create(name)
        if isinstance(engine, DuckDb):
            engine.settle(name)
        before = bytes_of(name) if isinstance(engine, DuckDb) else 0
        began = time.perf_counter()
        fill(name, rows, 10_000)
        say(scale, "append all", "points/s", METRICS * len(rows) / (time.perf_counter() - began))
        began = time.perf_counter()
        engine.settle(name)
        say(scale, "seal", "points/s", METRICS * len(rows) / (time.perf_counter() - began))
        say(scale, "on disk, sealed", "B/point", (bytes_of(name) - before) / (METRICS * len(rows)))
        found = timed(scale, "range of 10,000 points",
                      lambda: engine.rows(f"SELECT * FROM {name} WHERE device = 50 ORDER BY ts DESC LIMIT 2000"))
        say(scale, "range of 10,000 points", "answer", found["temperature"].sum())
        began = time.perf_counter()
        for _ in range(100):
            found = engine.rows(engine.latest.format(name))
        say(scale, "latest of 10,000 devices", "ms", (time.perf_counter() - began) * 1e3)
        say(scale, "latest of 10,000 devices", "answer", found["value"].sum())
    engine.create("alone")
    fill("alone", alone, 10_000)
    engine.settle("alone")
    for name, seconds in SPANS:
        what = f"aggregate of 1,000,000 points, {name}"
        found = timed(10, what, lambda: engine.rows(engine.bucket.format(width=seconds * 1_000_000)))
        say(10, what, "answer", found["total"].sum() + found["first"].sum() + found["last"].sum())
    engine.close()


if __name__ == "__main__":
    kind, folder = sys.argv[1:]
    at = os.path.join(folder, kind)
    measure({"duckdb": DuckDb, "clickhouse": ClickHouse}[kind](at), folder)
    shutil.rmtree(at)
