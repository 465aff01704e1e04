#!/usr/bin/env python3
"""Measures bootstrap beside other tunnels, on loopback, with one load tool for all, in interleaved rounds.

    Benchmarks/run.py [--quick] [--binary PATH] [--before PATH] [--peers NAME;...] [--measures NAME;...] [--rounds N] [--no-write]

Every round measures every peer once, so that what disturbs the machine disturbs all of them; what counts is the ratio to a
peer of the same round, and CPU time per byte, per open and per round trip. Results: Benchmarks/results.json and the tables of docs/benchmarks.md.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

import peers
import report

HERE = os.path.dirname(os.path.abspath(__file__))
TICKS = os.sysconf("SC_CLK_TCK")

# name: the load tool's arguments. Bulk runs also give CPU seconds per gigabyte.
MEASURES = {
    "up 1": ["up", "--connections", "1"],
    "down 1": ["down", "--connections", "1"],
    "both 1": ["both", "--connections", "1"],
    "up 8": ["up", "--connections", "8"],
    "down 8": ["down", "--connections", "8"],
    "both 8": ["both", "--connections", "8"],
    "ping 1": ["ping", "--connections", "1"],
    "ping 64": ["ping", "--connections", "64"],
    "opens 16": ["opens", "--connections", "16"],
    "keystrokes up": ["keystrokes", "--direction", "up"],
    "keystrokes down": ["keystrokes", "--direction", "down"],
    "long up": ["up", "--connections", "1"],
    "long down": ["down", "--connections", "1"],
    "long up 8": ["up", "--connections", "8"],
    "long down 8": ["down", "--connections", "8"],
}
# Over a path of 100 ms and 1 Gbit/s, made in user space; with time for the windows to open.
LONG_MANY = ("long up 8", "long down 8")
LONG_MEASURES, LONG_SECONDS, LONG_WARM_UP, LONG_ROUNDS = ("long up", "long down", *LONG_MANY), 6, 4, 3
QUICK_MEASURES = ["up 1", "down 1", "up 8", "down 8", "ping 1", "opens 16"]
QUICK_PEERS = ["bootstrap", "envoy", "ssh -L", "ssh -L, aes128-gcm", "rust"]
# What is counted one by one: their CPU time is divided by how many there were.
COUNTED = ("ping", "opens")


def process_tree(pid):
    """`pid` and all its descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    parent = int(stat.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    tree, queue = [], [pid]
    while queue:
        current = queue.pop()
        tree.append(current)
        queue += children.get(current, [])
    return tree


def cpu_seconds(pid):
    """User and system time of a process and its descendants, those that ended included."""
    total = 0
    for member in process_tree(pid):
        try:
            with open(f"/proc/{member}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            total += sum(int(field) for field in fields[11:15])
        except OSError:
            pass
    return total / TICKS


def resident_bytes(pid):
    total = 0
    for member in process_tree(pid):
        try:
            with open(f"/proc/{member}/statm") as statm:
                total += int(statm.read().split()[1]) * resource.getpagesize()
        except OSError:
            pass
    return total


def run_load(load, arguments, peer, seconds, warm_up):
    command = [load, arguments[0], str(peer.port), *arguments[1:], *peer.load_options, "--seconds", str(seconds), "--warm-up", str(warm_up)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + warm_up + 120)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"load ended with status {done.returncode}")
    return json.loads(done.stdout)


def measure(load, peer, arguments, seconds, warm_up):
    counted = arguments[0] in COUNTED
    if counted and warm_up:
        # A run of its own, because the load tool does not count what it does in its warm-up, and the proxies' CPU time does.
        run_load(load, arguments, peer, warm_up, 0)
        warm_up = 0
    before = [cpu_seconds(process.pid) for process in peer.processes]
    result = run_load(load, arguments, peer, seconds, warm_up)
    if peer.processes and ("bytes" in result or counted):
        used = [cpu_seconds(process.pid) - earlier for process, earlier in zip(peer.processes, before)]
        if counted:
            # Microseconds for each open or round trip.
            result["cpuEach"] = [1e6 * cpu / (result["rate"] * seconds) for cpu in used]
        else:
            result["cpu"] = [cpu / (result["bytes"] / 1e9) for cpu in used]
    return result


def measure_idle(load, peer, count):
    """RSS of each proxy at rest, and what each idle tunnelled connection adds."""
    run_load(load, ["ping", "--connections", "1"], peer, 0.2, 0)  # the tunnel itself exists
    before = [resident_bytes(process.pid) for process in peer.processes]
    holder = subprocess.Popen([load, "idle", str(peer.port), "--connections", str(count), *peer.load_options],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if holder.stdout.readline().strip() != "ready":
            raise RuntimeError(holder.communicate(timeout=30)[1].strip())
        time.sleep(0.5)
        after = [resident_bytes(process.pid) for process in peer.processes]
    finally:
        holder.stdin.close()
        try:
            holder.wait(30)
        except subprocess.TimeoutExpired:
            holder.kill()
            holder.wait()
    return {
        "base": before,
        "with": after,
        "perTunnel": [(b - a) / count for a, b in zip(before, after)],
        "count": count,
    }


def build_load():
    subprocess.run(["swift", "build", "-c", "release", "--package-path", HERE], check=True, stdout=sys.stderr)
    return os.path.join(HERE, ".build/release/load")


def aes_class(flags):
    """What the ratios of bulk depend on most: libraries differ in which of these they have code for."""
    if {"vaes", "vpclmulqdq"} <= flags:
        return "VAES and AVX-512" if {"avx512f", "avx512bw", "avx512vl"} <= flags else "VAES, no AVX-512"
    return "AES instructions, no VAES" if "aes" in flags else "no AES instructions"


def machine():
    with open("/proc/cpuinfo") as info:
        fields = dict(line.split(":", 1) for line in info.read().split("\n\n")[0].splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    model = fields.get("model name", "unknown")
    flags = set((fields.get("flags") or fields.get("Features") or "").split())

    def version(*command, line=0):
        try:
            done = subprocess.run(command, capture_output=True, text=True)
            return (done.stdout or done.stderr).strip().splitlines()[line]
        except (OSError, IndexError):
            return "not installed"

    return {
        "processor": model,
        "class": aes_class(flags),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": os.uname().release,
        "swift": version("swift", "--version"),
        "openssl": version("openssl", "version"),
        "ssh": version("ssh", "-V"),
        "envoy": version(peers.Envoy.binary, "--version") if peers.Envoy.binary else "not installed",
        # Its second line names libcrypto and the AES that runs.
        "cryptography": version(peers.Bootstrap.binary, "--version", line=-1),
        "commit": version("git", "-C", HERE, "describe", "--always", "--dirty"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(HERE, "../.build/release/bootstrap"))
    parser.add_argument("--before", metavar="BINARY", help="measure this build, too: a change of the code shows as a ratio in one run")
    parser.add_argument("--quick", action="store_true", help="two short rounds of the main measures and peers")
    parser.add_argument("--peers", help="separated by semicolons; default all: " + "; ".join(kind.name for kind in peers.ALL))
    parser.add_argument("--measures", help="separated by semicolons; default all: " + "; ".join(MEASURES))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--warm-up", type=float)
    parser.add_argument("--idle-many", type=int, default=10_000,
                        help="idle connections held through bootstrap alone, for the memory of each; 0: none")
    parser.add_argument("--idle", type=int, default=1000, help="idle connections held for the memory figures; 0: none")
    parser.add_argument("--load", help="the load tool, if it is built already")
    parser.add_argument("--no-write", action="store_true", help="print only; leave docs/benchmarks.md alone")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (1.0 if options.quick else 2.0)
    warm_up = options.warm_up if options.warm_up is not None else (0.3 if options.quick else 0.7)

    def chosen(text, quick, every):
        if text is None:
            return [name for name in every if not options.quick or name in quick]
        names = [name.strip() for name in text.split(";")]
        unknown = [name for name in names if name not in every]
        if unknown:
            parser.error(f"unknown: {'; '.join(unknown)}. There are: {'; '.join(every)}")
        return [name for name in every if name in names]

    before = peers.BootstrapBefore.name
    peer_names = chosen(options.peers, QUICK_PEERS, [kind.name for kind in peers.ALL])
    peer_names = [name for name in peer_names if name != before] + ([before] if options.before else [])
    measure_names = chosen(options.measures, QUICK_MEASURES, list(MEASURES))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cache = os.environ.get("BOOTSTRAP_TESTS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bootstrap-tests")
    envoy = os.path.join(cache, "envoy-1.40.0/envoy")
    peers.Envoy.binary = peers.EnvoyDefaults.binary = envoy
    peers.Bootstrap.binary = os.path.abspath(options.binary)
    peers.BootstrapBefore.binary = options.before and os.path.abspath(options.before)
    load = options.load or build_load()

    # Ended by a signal, it still ends what it started.
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def leave(received, _):
        # A second one (timeout(1) passes on what its child had already got) must not interrupt the cleaning up.
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + received)

    for number in signals:
        signal.signal(number, leave)
    results = {
        "machine": machine(), "rounds": rounds, "seconds": seconds, "warmUp": warm_up,
        "peers": {}, "unavailable": {}, "errors": [],
    }
    running, distant = [], []
    with tempfile.TemporaryDirectory(prefix="bootstrap-bench.") as directory:
        os.mkdir(os.path.join(directory, "certificates"))
        peers.make_certificates(os.path.join(directory, "certificates"))
        target = peers.free_port()
        server = subprocess.Popen([load, "server", str(target)], stdout=subprocess.PIPE)
        try:
            server.stdout.readline()
            for kind in peers.ALL:
                if kind.name not in peer_names:
                    continue
                peer = kind(directory, target)
                try:
                    peer.start()
                    running.append(peer)
                    results["peers"][peer.name] = {"values": {name: [] for name in measure_names}, "idle": None}
                except peers.PeerUnavailable as error:
                    peer.stop()
                    results["unavailable"][peer.name] = str(error)
                    print(f"{peer.name}: left out: {error}", file=sys.stderr)

            if any(name in LONG_MEASURES for name in measure_names):
                os.mkdir(os.path.join(directory, "long"))
                os.symlink("../certificates", os.path.join(directory, "long/certificates"))
                for peer in running:
                    if not peer.can_be_distant:
                        continue
                    twin = type(peer)(os.path.join(directory, "long"), target)
                    twin.is_distant = True
                    distant.append(twin)
                    twin.start()

            def failed(peer, name, error):
                text = f"{peer.name}: {name}: {error}"
                results["errors"].append(text)
                print(f"{text}\n{peer.logs()}", file=sys.stderr)

            if options.idle:
                for peer in running:
                    if peer.processes:
                        try:
                            results["peers"][peer.name]["idle"] = measure_idle(load, peer, options.idle)
                        except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
                            failed(peer, "idle", error)
            for peer in running:
                if peer.name != "bootstrap" or not options.idle_many:
                    continue
                try:
                    many = measure_idle(load, peer, options.idle_many)
                    results["idleMany"] = many
                    client, proxy = (bytes_each / 1024 for bytes_each in many["perTunnel"])
                    print(f"bootstrap: {many['count']:,} idle tunnels: {client:.2f} KiB each at the client, {proxy:.2f} at the server",
                          file=sys.stderr, flush=True)
                except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
                    failed(peer, "idle-many", error)
            for name in measure_names:
                is_long = name in LONG_MEASURES
                measured = distant if is_long else running
                if name in LONG_MANY:
                    measured = [peer for peer in distant if peer.measures_long_many]
                if not measured:
                    continue
                duration = (LONG_SECONDS, LONG_WARM_UP) if is_long else (seconds, warm_up)
                for number in range(min(rounds, LONG_ROUNDS) if is_long else rounds):
                    # The order turns with the rounds, so that no peer always follows the same one.
                    for peer in measured[number % len(measured):] + measured[:number % len(measured)]:
                        if name in peer.skips:
                            continue
                        try:
                            value = measure(load, peer, MEASURES[name], *duration)
                        except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
                            failed(peer, name, error)
                            value = None
                        results["peers"][peer.name]["values"][name].append(value)
                print(report.progress(name, results), file=sys.stderr, flush=True)
        finally:
            for peer in running + distant:
                peer.stop()
            server.terminate()
            server.wait()

    results["ratios"] = report.ratios(results)
    results["fallbackRatios"] = {name: report.ratios(results, ours=name) for name in report.FALLBACKS if name in results["peers"]}
    text = report.markdown(results)
    print(text)
    with open(os.path.join(HERE, "results.json"), "w") as file:
        json.dump(results, file, indent=1)
    if not options.no_write and not options.before and not options.quick and not options.peers and not options.measures:
        report.insert(os.path.join(HERE, "../docs/benchmarks.md"), text)
    # A peer that failed is a result; bootstrap that failed, or wrong bytes anywhere, is a failure of the run.
    return 1 if any(error.startswith("bootstrap:") or "wrong bytes" in error for error in results["errors"]) else 0


if __name__ == "__main__":
    sys.exit(main())
