"""Makes the table of tests/broker-figures from what the benchmarks printed."""

import pathlib
import sys

from cells import at, cell, lost

folder, brokers = pathlib.Path(sys.argv[1]), sys.argv[2:]


def megabytes(run):
    return round((run["server"]["rss_kib_peak"] - run["server"]["rss_kib_before"]) / 1024)


FLOWS = [("pairs-0", "pairs QoS 0"), ("pairs-1", "pairs QoS 1"), ("pairs-2", "pairs QoS 2"),
         ("fan-in-1", "fan-in 100 → 1, QoS 1"), ("fan-out-0", "fan-out 1 → 1000, QoS 0"),
         ("fan-out-1", "fan-out 1 → 1000, QoS 1")]

ROWS = [(f"{title}, CPU µs per message", name, at("server.cpu_us_per_message")) for name, title in FLOWS]
ROWS += [(f"{title}, received/s", name, at("received_per_s")) for name, title in FLOWS]
ROWS += [(f"{title}, lost / twice / out of order", name, lost) for name, title in FLOWS]
ROWS += [
    ("one at a time, 5,000/s, CPU µs per message", "unbatched", at("server.cpu_us_per_message")),
    ("one at a time, p99 µs", "unbatched", at("latency.p99_us")),
    ("request and response, 1,000/s, p50 µs", "respond", at("latency.p50_us")),
    ("request and response, p99 µs", "respond", at("latency.p99_us")),
    ("flood QoS 0, lost of 200,000", "flood-0", at("lost")),
    ("flood QoS 0, memory at most, MiB", "flood-0", megabytes),
    ("flood QoS 1, lost of 200,000", "flood-1", at("lost")),
    ("flood QoS 1, memory at most, MiB", "flood-1", megabytes),
    ("opening TCP, CPU µs", "idle-tcp", at("server.cpu_us_per_opening")),
    ("opening TLS, CPU µs", "idle-tls", at("server.cpu_us_per_opening")),
    ("idle TCP and subscription, bytes", "idle-tcp", at("server.bytes_per_connection")),
    ("idle TLS and subscription, bytes", "idle-tls", at("server.bytes_per_connection")),
]


print("| |", " | ".join(brokers), "|")
print("|---" * (len(brokers) + 1) + "|")
for title, name, value in ROWS:
    print("|", title, "|", " | ".join(cell(folder / f"{broker}.{name}", value) for broker in brokers), "|")
