"""The lab's table, and what of it is a failure."""

import os
import statistics

BEGIN, END = "<!-- lab: begin (written by make lab WRITE=1) -->", "<!-- lab: end -->"


def seconds(value):
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def cell(values):
    """Median and worst."""
    known = [value for value in values if value is not None]
    return f"{seconds(statistics.median(known))} ({seconds(max(known))})" if known else "–"


def verdict(scenario, results):
    """Whether it is as it must be, and what is said of it."""
    lost = sum(result["streams"] - result["whole"] for result in results)
    streams = sum(result["streams"] for result in results)
    clean = [why for result in results for why in result["lost"] if "clean end" in why or "sums differ" in why]
    stuck = sum(result["first"] is None for result in results)
    if clean:
        return False, f"FAILED: {len(clean)} of {streams} streams ended as if they were whole: {clean[0]}"
    if stuck:
        return False, f"FAILED: nothing flowed again in {stuck} of {len(results)} runs; {lost} of {streams} streams lost"
    if scenario.survive == "none":
        resets = sum(result["ends"]["reset"] for result in results)
        if lost != streams or resets != streams:
            return False, f"FAILED: of {streams} streams {lost} were reset here and {resets} on the device"
        return True, "0: reset on both sides"
    if lost:
        reasons = sorted({why for result in results for why in result["lost"]})
        return False, f"FAILED: {lost} of {streams} streams lost ({reasons[0]})"
    return True, f"all of {streams}"


def row(scenario, results, note=""):
    paths = sorted({f"{result['before']} → {result['after']}" for result in results})
    good, said = verdict(scenario, results)
    return good, [scenario.name + note, str(len(results)), cell([r["first"] for r in results]), cell([r["last"] for r in results]),
                  ", ".join(paths), said]


def beside_row(scenario, kind, results):
    """Of another tool: how many it lost, which is no failure of ours."""
    lost, streams = sum(r["streams"] - r["whole"] for r in results), sum(r["streams"] for r in results)
    return [scenario.name, kind.name, str(len(results)), cell([r["first"] for r in results]), f"{lost} of {streams}"]


def milliseconds(latencies, share):
    return f"{1000 * latencies[min(len(latencies) - 1, int(share * len(latencies)))]:.0f}" if latencies else "–"


def latency_row(scenario, kind, results):
    """Small messages beside bulk: both as they were while the bulk went on."""
    latencies = sorted(latency for result in results for latency in result["keystrokes"])
    rate = statistics.median(result["rate"] for result in results) / 1e6
    lost, streams = sum(r["streams"] - r["whole"] for r in results), sum(r["streams"] for r in results)
    return [scenario.name, kind.name, str(len(results)), milliseconds(latencies, 0.5), milliseconds(latencies, 0.99), f"{rate:.2f}",
            f"all of {streams}" if not lost else f"{streams - lost} of {streams}"]


def table(header, rows):
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *("| " + " | ".join(r) + " |" for r in rows)])


def document(about, rows, beside, latencies, skipped):
    parts = [about, table(["fault", "runs", "first stream flows, s", "all flow, s", "path", "streams that survived"], rows)]
    if beside:
        parts.append("Others: `ssh -L` with `ServerAliveInterval=1` and `ServerAliveCountMax=3`, started again when it ends, as "
                     "autossh does; a pair of Envoys (CONNECT over mutual TLS and HTTP/2, PING each second with a timeout of 3 s). "
                     "The same fault on their port, for 10 s where it does not pass by itself:\n\n" +
                     table(["fault", "", "runs", "a new stream flows, s", "streams lost"], beside))
    if latencies:
        parts.append("Keystrokes beside bulk, without a fault: messages of up to 8 bytes and their echoes on 20 streams, while 4 others "
                     "send as much as they can, and get it back:\n\n" +
                     table(["", "", "runs", "p50, ms", "p99, ms", "bulk each way, MB/s", "streams whole"], latencies))
    if skipped:
        parts.append("Skipped: " + "; ".join(skipped) + ".")
    return "\n\n".join(parts)


def write(path, text):
    with open(path) as file:
        head, rest = file.read().split(BEGIN, 1)
    with open(path + ".new", "w") as file:
        file.write(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")
    os.replace(path + ".new", path)
