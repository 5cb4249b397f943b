"""Figures of durable reports: what the load saw, and which part of the server was at work, from perf's call chains."""

import collections
import json
import sys

# The innermost frame that says whose work it is, from the called to the caller.
PARTS = [
    ("store", ("iot_store", "sqlite3", "tokio_postgres", "postgres_protocol", "deadpool")),
    ("logic", ("logic::Thermostat", "node::consumers", "node::tail", "node::effects")),
    ("ingest", ("node::ingest", "node::data", "iot_core::payload")),
    ("connection", ("node::connection", "node::endpoint", "iot_conn::mqtt", "iot_conn::transport", "iot_conn::node")),
]


def load(name, path, postgres_us):
    figures = json.load(open(path))
    count = figures["acknowledged"]
    ack, server = figures["ack_latency"], figures["server"]
    beside = f", PostgreSQL {int(postgres_us) / count:.1f}" if int(postgres_us) else ""
    print(
        f"{name}: {figures['acknowledged_per_s']:.0f} acknowledged/s, p50 {ack['p50_us'] / 1000:.1f} ms,"
        f" p99 {ack['p99_us'] / 1000:.1f} ms, server {server['cpu_us_per_message']:.1f} µs CPU per message{beside};"
        f" refused {figures['refused']}, unanswered {figures['unanswered']}"
    )


def part(thread, frames):
    for frame in frames:
        for name, marks in PARTS:
            if any(mark in frame for mark in marks):
                return name
    return "runtime" if thread.startswith("tokio") else "store"


def parts(name, path):
    per_message = json.load(open(path))["server"]["cpu_us_per_message"]
    counts, thread, frames = collections.Counter(), None, []
    for line in sys.stdin:
        line = line.rstrip()
        if not line:
            if thread is not None:
                counts[part(thread, frames)] += 1
            thread, frames = None, []
        elif line[0] not in " \t":
            thread = line.split()[0]
        else:
            frames.append(line.strip())
    total = sum(counts.values())
    shares = ", ".join(f"{part} {per_message * count / total:.1f}" for part, count in counts.most_common())
    print(f"{name}, µs CPU per message by part: {shares} ({total} samples)")


if sys.argv[1] == "load":
    load(*sys.argv[2:])
else:
    parts(*sys.argv[2:])
