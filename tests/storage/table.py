"""Prints the figures of all runs as tables of medians, with the least and the greatest; fails if answers differ."""

import json
import statistics
import sys
from collections import defaultdict

values, engines = defaultdict(list), []
for line in open(sys.argv[1]):
    row = json.loads(line)
    values[row["scale"], row["what"], row["unit"], row["engine"]].append(row["value"])
    if row["engine"] not in engines:
        engines.append(row["engine"])


def short(value):
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.0f}k" if value >= 1e4 else f"{value:.3g}"


def cell(found):
    if not found:
        return "–"
    spread = f" ({short(min(found))}–{short(max(found))})" if len(found) > 1 else ""
    return short(statistics.median(found)) + spread


what = list(dict.fromkeys(key[:3] for key in values if key[2] != "answer"))
print("\n| what | data | unit | " + " | ".join(engines) + " |")
print("|---" * (3 + len(engines)) + "|")
for scale, name, unit in what:
    cells = [cell(values.get((scale, name, unit, engine))) for engine in engines]
    print(f"| {name} | {scale}x | {unit} | " + " | ".join(cells) + " |")
print("\nTen times the data, cost of one (1.3 is the bar):")
for _, name, unit in (key for key in what if key[0] == 1 and (10, *key[1:]) in what):
    for engine in engines:
        one, ten = (values.get((scale, name, unit, engine)) for scale in (1, 10))
        if one and ten:
            ratio = statistics.median(ten) / statistics.median(one)
            print(f"- {name}, {engine}: {1 / ratio if unit == 'points/s' else ratio:.2f}")
differ = False
for scale, name in dict.fromkeys(key[:2] for key in values if key[2] == "answer"):
    answers = [value for engine in engines for value in values.get((scale, name, "answer", engine), [])]
    if max(answers) - min(answers) > 1e-9 * abs(max(answers)):
        print(f"{name}, {scale}x: answers differ: {sorted(set(answers))}", file=sys.stderr)
        differ = True
print(f"\n{'ANSWERS DIFFER' if differ else 'All engines gave the same answers.'}")
sys.exit(differ)
