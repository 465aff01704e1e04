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


def beside_row(scenario, results):
    """Of `ssh -L`: how many it lost, which is no failure of ours."""
    lost, streams = sum(r["streams"] - r["whole"] for r in results), sum(r["streams"] for r in results)
    return [scenario.name, str(len(results)), cell([r["first"] for r in results]), f"{lost} of {streams}"]


def table(header, rows):
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *("| " + " | ".join(r) + " |" for r in rows)])


def document(about, rows, beside, skipped):
    parts = [about, table(["fault", "runs", "first stream flows, s", "all flow, s", "path", "streams that survived"], rows)]
    if beside:
        parts.append("`ssh -L` with `ServerAliveInterval=1` and `ServerAliveCountMax=3`, started again when it ends; the same "
                     "fault on its port, for 10 s where it does not pass by itself:\n\n" +
                     table(["fault", "runs", "a new stream flows, s", "streams lost"], beside))
    if skipped:
        parts.append("Skipped: " + "; ".join(skipped) + ".")
    return "\n\n".join(parts)


def write(path, text):
    with open(path) as file:
        head, rest = file.read().split(BEGIN, 1)
    with open(path + ".new", "w") as file:
        file.write(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")
    os.replace(path + ".new", path)
