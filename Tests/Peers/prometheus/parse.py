"""Reads Prometheus' text format from stdin with Prometheus' own parser, strictly, and prints it as JSON: a list of families with name, type,
help, and samples of name, labels, value. What the parser lets pass and the format does not is an error here."""

import json
import re
import sys

from prometheus_client.parser import text_string_to_metric_families

text = sys.stdin.read()
if not text.endswith("\n"):
    sys.exit("the last line has no end")
declared = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
if len({name for name, _ in declared}) != len(declared):
    sys.exit("a family is there twice")
kinds = dict(declared)
seen = set()
families = []
for family in text_string_to_metric_families(text):
    samples = []
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        if key in seen:
            sys.exit(f"a series is there twice: {key}")
        seen.add(key)
        samples.append([sample.name, sample.labels, repr(sample.value)])
    name = family.name if family.name in kinds else family.name + "_total"
    if name not in kinds:
        sys.exit(f"{family.name} is not declared")
    if kinds[name] == "histogram":
        series = {}
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key != "le"}
            entry = series.setdefault(json.dumps(labels, sort_keys=True), {"buckets": []})
            if sample.name.endswith("_bucket"):
                entry["buckets"].append((float(sample.labels["le"]), sample.value))
            else:
                entry[sample.name.rsplit("_", 1)[1]] = sample.value
        for labels, entry in series.items():
            bounds = [bound for bound, _ in entry["buckets"]]
            counts = [count for _, count in entry["buckets"]]
            if bounds != sorted(bounds) or bounds[-1] != float("inf") or counts != sorted(counts) or counts[-1] != entry["count"]:
                sys.exit(f"{name}{labels} is no histogram: {entry}")
    families.append({"name": name, "type": kinds[name], "help": family.documentation, "samples": samples})
json.dump(families, sys.stdout)
