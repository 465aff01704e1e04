"""Turns the results into tables: medians with their spread, and ratios of the same round."""

import statistics

BEGIN, END = "<!-- results: begin (written by make bench) -->", "<!-- results: end -->"

# CPU time of both proxies for each stream and message, and the peer that all are held against in them.
CPU_OPEN = "CPU per open, both proxies, us"
CPU_ROUND_TRIP = "CPU per round trip, both proxies, us"
CPU_ROUND_TRIP_64 = "CPU per round trip of 64 connections, both proxies, us"
YARDSTICK = "rust"

# What is compared: title, measure, how a value is read from the load tool's answer, whether more is better.
QUANTITIES = [
    ("up, 1 connection, MB/s", "up 1", lambda v: v["up"], True),
    ("down, 1 connection, MB/s", "down 1", lambda v: v["down"], True),
    ("both ways, 1 connection, MB/s added", "both 1", lambda v: v["up"] + v["down"], True),
    ("up, 8 connections, MB/s", "up 8", lambda v: v["up"], True),
    ("down, 8 connections, MB/s", "down 8", lambda v: v["down"], True),
    ("both ways, 8 connections, MB/s added", "both 8", lambda v: v["up"] + v["down"], True),
    ("CPU-s per GB, up 1, both proxies", "up 1", lambda v: sum(v["cpu"]), False),
    ("CPU-s per GB, down 1, both proxies", "down 1", lambda v: sum(v["cpu"]), False),
    ("CPU-s per GB, up 8, both proxies", "up 8", lambda v: sum(v["cpu"]), False),
    ("CPU-s per GB, down 8, both proxies", "down 8", lambda v: sum(v["cpu"]), False),
    ("64 B round trip, p50, us", "ping 1", lambda v: v["p50"], False),
    ("64 B round trip, p99, us", "ping 1", lambda v: v["p99"], False),
    (CPU_ROUND_TRIP, "ping 1", lambda v: sum(v["cpuEach"]), False),
    ("64 connections, round trips per second", "ping 64", lambda v: v["rate"], True),
    (CPU_ROUND_TRIP_64, "ping 64", lambda v: sum(v["cpuEach"]), False),
    ("opens per second, 16 at a time", "opens 16", lambda v: v["rate"], True),
    (CPU_OPEN, "opens 16", lambda v: sum(v["cpuEach"]), False),
    ("keystrokes under bulk up, p50, ms", "keystrokes up", lambda v: v["p50"] / 1000, False),
    ("keystrokes under bulk up, p99, ms", "keystrokes up", lambda v: v["p99"] / 1000, False),
    ("keystrokes under bulk down, p50, ms", "keystrokes down", lambda v: v["p50"] / 1000, False),
    ("keystrokes under bulk down, p99, ms", "keystrokes down", lambda v: v["p99"] / 1000, False),
    ("up, 1 connection at 100 ms and 125 MB/s, MB/s", "long up", lambda v: v["up"], True),
    ("down, 1 connection at 100 ms and 125 MB/s, MB/s", "long down", lambda v: v["down"], True),
    ("up, 8 connections at 100 ms and 125 MB/s, MB/s", "long up 8", lambda v: v["up"], True),
    ("down, 8 connections at 100 ms and 125 MB/s, MB/s", "long down 8", lambda v: v["down"], True),
]

# The paths that are there when HTTP/2 does not get through, and what they are compared with.
FALLBACKS, SSH_PEERS = ("bootstrap, ssh", "bootstrap, h2-over-ssh"), ("ssh -L", "ssh -L, aes128-gcm")


def samples(results, peer, quantity):
    """One number for each round; None where the round failed or the figure does not exist."""
    _, measure, read, _ = quantity
    numbers = []
    for value in results["peers"].get(peer, {"values": {}})["values"].get(measure, []):
        try:
            numbers.append(read(value))
        except (KeyError, TypeError):
            numbers.append(None)
    return numbers


def number(value):
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(numbers):
    numbers = [n for n in numbers if n is not None]
    if not numbers:
        return "–"
    return f"{number(statistics.median(numbers))} ({number(min(numbers))}–{number(max(numbers))})"


def progress(measure, results):
    lines = []
    for quantity in QUANTITIES:
        if quantity[1] == measure:
            for peer in results["peers"]:
                numbers = samples(results, peer, quantity)
                if any(n is not None for n in numbers):
                    beside = ratio(results, peer, YARDSTICK, quantity) if peer != YARDSTICK else None
                    lines.append(f"{quantity[0]:54} {peer:24} {cell(numbers)}" + (f"  {beside:.2f} x {YARDSTICK}" if beside else ""))
    return "\n".join(lines)


def ratio(results, ours, peer, quantity):
    """The median of our figure divided by the peer's, round by round; None where there is none."""
    pairs = [a / b for a, b in zip(samples(results, ours, quantity), samples(results, peer, quantity)) if a and b]
    return statistics.median(pairs) if pairs else None


def cpu_table(results):
    """CPU time for each open and round trip: a line for each peer, its client and server side apart, and beside the yardstick."""
    quantities = [q for q in QUANTITIES if q[0] in (CPU_OPEN, CPU_ROUND_TRIP, CPU_ROUND_TRIP_64)]
    rows = []
    for peer in results["peers"]:
        row = [peer]
        for quantity in quantities:
            measured = [v for v in results["peers"][peer]["values"].get(quantity[1], []) if v and "cpuEach" in v]
            sides = [statistics.median(side) for side in zip(*(v["cpuEach"] for v in measured))]
            beside = ratio(results, peer, YARDSTICK, quantity)
            row += [f"{cell(samples(results, peer, quantity))}, {' + '.join(number(side) for side in sides)}" if sides else "–",
                    f"{beside:.2f}" if beside else "–"]
        if any(text != "–" for text in row[1:]):
            rows.append(row)
    header = [""] + [text for quantity in quantities for text in (quantity[0].replace(", both proxies", ""), f"÷ {YARDSTICK}")]
    return rows and "CPU time of the two proxies (added; then client + server, a median each):\n\n" + table(header, rows)


def ratios(results, ours="bootstrap"):
    """For each quantity and peer: the median of our figure divided by the peer's, round by round."""
    table = {}
    for quantity in QUANTITIES:
        row = {}
        for peer in results["peers"]:
            if peer in (ours, "no tunnel") or ours in FALLBACKS and peer not in SSH_PEERS or ours not in FALLBACKS and peer in FALLBACKS:
                continue
            beside = ratio(results, ours, peer, quantity)
            if beside is not None:
                row[peer] = beside
        if row:
            table[quantity[0]] = row
    return table


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def markdown(results):
    machine = results["machine"]
    names = list(results["peers"])
    parts = [
        f"{machine['processor']} ({machine['class']}), {machine['cores']} cores, Linux {machine['kernel']}; "
        f"bootstrap: {machine['cryptography']}; {machine['openssl']}; "
        f"{machine['ssh']}; commit {machine['commit']}. {results['rounds']} interleaved rounds of {results['seconds']:g} s "
        f"after {results['warmUp']:g} s of warm-up. Medians (least–most).",
    ]
    rows = []
    for quantity in QUANTITIES:
        cells = [cell(samples(results, name, quantity)) for name in names]
        if any(c != "–" for c in cells):
            rows.append([quantity[0]] + cells)
    parts.append(table([""] + names, rows))
    each = cpu_table(results)
    if each:
        parts.append(each)

    idle = [(name, results["peers"][name]["idle"]) for name in names if results["peers"][name]["idle"]]
    if idle:
        def both(numbers, unit):
            return " + ".join(f"{n / unit:.1f}" for n in numbers)
        parts.append("Memory of the two proxies (client + server):\n\n" + table(
            ["", "RSS at rest, MB", f"RSS with {idle[0][1]['count']:,} idle tunnels, MB", "KiB per idle tunnel"],
            [[name, both(i["base"], 1e6), both(i["with"], 1e6), both(i["perTunnel"], 1024)] for name, i in idle]))

    better = {q[0]: q[3] for q in QUANTITIES}
    for ours, ratios_of in [("bootstrap", results["ratios"]), *results.get("fallbackRatios", {}).items()]:
        others = [name for name in names if any(name in row for row in ratios_of.values())]
        if others:
            parts.append(f"{ours} divided by the peer, medians of the rounds' ratios:\n\n" + table(
                ["", "better is"] + others,
                [[title, "more" if better[title] else "less"] + [f"{row[o]:.2f}" if o in row else "–" for o in others]
                 for title, row in ratios_of.items()]))
    if results["unavailable"]:
        parts.append("Left out: " + "; ".join(f"{k} ({v})" for k, v in results["unavailable"].items()) + ".")
    if results["errors"]:
        parts.append("Failed: " + "; ".join(results["errors"]) + ".")
    return "\n\n".join(parts)


def insert(path, text):
    with open(path) as file:
        document = file.read()
    head, rest = document.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    with open(path, "w") as file:
        file.write(head + BEGIN + "\n\n" + text + "\n\n" + END + tail)
