"""Makes the table of tests/device-figures from what the benchmarks printed."""

import pathlib
import sys

from cells import at, cell, lost

folder = pathlib.Path(sys.argv[1])


def rows(title, name, *more):
    yield f"{title}, CPU µs per message", name, at("server.cpu_us_per_message")
    for what, value in more:
        yield f"{title}, {what}", name, value


received, kept = ("received/s", at("received_per_s")), ("lost / twice / out of order", lost)
acknowledged = ("acknowledgement p50 µs", at("ack_latency.p50_us")), ("acknowledgement p99 µs", at("ack_latency.p99_us"))

ROWS = [
    *rows("pairs QoS 0, applications over TCP", "apps-0", received, kept),
    *rows("pairs QoS 0, devices over TLS", "devices-0", received, kept),
    *rows("pairs QoS 1 durable, devices over TLS", "durable", received, kept, *acknowledged),
    *rows("fan-in 100 → 1 QoS 1 durable, devices over TLS", "durable-in", received, kept, *acknowledged),
    *rows("telemetry QoS 1 durable, devices over TLS", "telemetry", ("acknowledged/s", at("acknowledged_per_s")),
          ("acknowledgement p99 µs", at("ack_latency.p99_us"))),
    *rows("one at a time, 5,000/s QoS 0, applications over TCP", "unbatched", ("p99 µs", at("latency.p99_us"))),
    ("command and answer, 100/s, nothing else, p50 µs", "command", at("latency.p50_us")),
    ("command and answer, p99 µs", "command", at("latency.p99_us")),
    ("command and answer, 100/s, as much telemetry as there can be, p50 µs", "command-busy", at("latency.p50_us")),
    ("command and answer, p99 µs", "command-busy", at("latency.p99_us")),
    ("telemetry meanwhile, acknowledged/s", "telemetry-busy", at("acknowledged_per_s")),
    ("opening, applications over TCP, CPU µs", "idle-apps", at("server.cpu_us_per_opening")),
    ("idle, applications over TCP, one subscription, bytes", "idle-apps", at("server.bytes_per_connection")),
    ("opening, devices over TLS with their certificates, CPU µs", "idle-devices", at("server.cpu_us_per_opening")),
    ("idle, devices over TLS, one subscription, bytes", "idle-devices", at("server.bytes_per_connection")),
]

print("| | iot-server |")
print("|---|---|")
for title, name, value in ROWS:
    print("|", title, "|", cell(folder / name, value), "|")
