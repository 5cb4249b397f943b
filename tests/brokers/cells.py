"""Cells of the tables that tests/broker-figures and tests/device-figures print."""

import json
import statistics


def at(path):
    """What a benchmark printed at this path."""

    def value(run):
        for key in path.split("."):
            run = run[key]
        return run

    return value


def lost(run):
    return f'{run["lost"]} / {run["duplicates"]} / {run["out_of_order"]}'


def cell(file, value):
    """The median of the runs in a file, a line each, with the lowest and the highest."""
    lines = file.read_text().splitlines() if file.exists() else []
    values = [value(json.loads(line)) for line in lines]
    if not values:
        return "failed"
    if isinstance(values[0], str):
        return ", ".join(sorted(set(values)))
    low, middle, high = min(values), statistics.median(values), max(values)
    number = (lambda x: f"{x:,.0f}") if high >= 100 else (lambda x: f"{x:g}")
    return number(middle) if low == high else f"{number(middle)} ({number(low)}–{number(high)})"
