#!/usr/bin/env python3
"""What becomes of live streams when their path dies: faults in a network of namespaces, with a real sshd and node on each device.

    Benchmarks/lab/lab.py [--binary BOOTSTRAP] [--short] [--only WORDS] [--write] [--ci]

Each run opens streams through `bootstrap connect`, lets random bytes go both ways, does the fault, measures the time until bytes
that were sent after it have come back, ends the streams in order and compares the sums. Needs root (uses sudo otherwise): all of
it is in namespaces of its own, which are gone when this program is, however it ends. Exit code 1 when streams were lost that had
to survive, whatever the times are.
"""

import argparse
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MARK = "LAB_ISOLATED"


def root(asks):
    """What makes a command root's."""
    return [] if os.geteuid() == 0 else ["sudo"] if asks else ["sudo", "-n"]


def obstacle(asks):
    """Why it cannot run here; None: it can. Where it `asks`, sudo may want a password."""
    for program in ("unshare", "nsenter", "ip", "nft", "ss", "ssh", "ssh-keygen", "/usr/sbin/sshd"):
        if not shutil.which(program):
            return f"{program} is missing"
    if root(asks) and (not shutil.which("sudo") or subprocess.run([*root(asks), "true"], stdout=subprocess.DEVNULL,
                                                                  stderr=None if asks else subprocess.DEVNULL).returncode):
        return "it needs root, for network namespaces"
    # Each of these may be forbidden in a container.
    probe = "ip link add veth-a type veth peer name veth-b && nft add table ip a && echo 1 >/proc/sys/net/ipv4/ip_forward"
    done = subprocess.run([*root(asks), "unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", probe],
                          capture_output=True, text=True)
    if done.returncode != 0:
        return "this machine lets nobody make networks of his own: " + (done.stderr.strip().splitlines() or ["unshare failed"])[-1]
    return None


def isolate(asks):
    """Starts this program anew as the first process of namespaces of its own, whose end is that of all others in them."""
    if os.environ.get(MARK):
        return
    command = [*root(asks), "env", f"{MARK}=1", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
               sys.executable, "-B", *sys.argv]
    os.execvp(command[0], command)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=str(ROOT / ".build/release/bootstrap"))
    parser.add_argument("--short", action="store_true", help="2 runs with 50 streams instead of 20 with 200")
    parser.add_argument("--only", default="", help="scenarios with this in their names")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--no-beside", action="store_true", help="leave out ssh -L and Envoy")
    parser.add_argument("--ci", action="store_true", help="a few scenarios, once each; says so and succeeds where it cannot run")
    chosen = parser.parse_args()
    if chosen.ci:
        chosen.short = chosen.no_beside = True
    return chosen


class Lab:
    def __init__(self, chosen, directory):
        from tunnels import World
        self.chosen, self.number = chosen, 0
        self.world = World(os.path.abspath(chosen.binary), directory)
        self.rows, self.beside, self.latencies, self.skipped, self.failed = [], [], [], [], False

    def runs(self, scenario, fault, limit, kind):
        from run import Run
        results = []
        loads = scenario.loads or ({"count": 50 if self.chosen.short else 200},)
        for _ in range(min(limit, scenario.runs, 1 if self.chosen.ci else 2 if self.chosen.short else 20)):
            self.number += 1
            run = Run(self.world, scenario, loads, self.number, self.chosen.short, kind)
            try:
                result = run.measure(fault)
                results.append(result)
                if result["whole"] != result["streams"] and scenario.survive == "all" and kind is scenario.kind:
                    print(f"{scenario.name}: {result['lost'][:3]}\n{run.tunnel.tail()}", file=sys.stderr, flush=True)
            except Exception:
                if run.tunnel:
                    print(run.tunnel.tail(), file=sys.stderr, flush=True)
                raise
            finally:
                run.close()
        return results

    def scenario(self, scenario):
        from machines import LabError, Skipped
        from table import beside_row, latency_row, row
        from tunnels import EnvoyForward, SSHForward
        started = time.monotonic()
        try:
            results = self.runs(scenario, scenario.fault, 20, scenario.kind)
            good, cells = row(scenario, results)
            if scenario.is_latency and good:
                cells = latency_row(scenario, scenario.kind, results)
                self.latencies.append(cells)
            else:
                self.rows.append(cells)
            self.failed |= not good
            print(" | ".join(cells) + f" | {time.monotonic() - started:.0f} s in all", flush=True)
        except Skipped as reason:
            self.skipped.append(f"{scenario.name} ({reason})")
            print(f"skipped: {self.skipped[-1]}", flush=True)
        except LabError as error:
            self.failed = True
            self.rows.append([scenario.name, "–", "–", "–", "–", f"FAILED: {str(error).splitlines()[0]}"])
            print(f"{scenario.name}: FAILED: {error}", flush=True)
        try:
            if scenario.restore:
                scenario.restore(self.world)
        except LabError as error:
            self.failed = True
            print(f"{scenario.name}: nothing was put back: {error}", file=sys.stderr, flush=True)
        if not scenario.beside or self.chosen.no_beside:
            return
        for kind in (SSHForward, EnvoyForward):
            try:
                fault = scenario.beside(kind)
                if not fault:
                    continue
                results = self.runs(scenario, fault, 3, kind)
                cells = (latency_row if scenario.is_latency else beside_row)(scenario, kind, results)
            except Skipped as reason:
                print(f"  {kind.name}: skipped: {reason}", flush=True)
                continue
            except LabError as error:
                print(f"  {kind.name}: {error}", file=sys.stderr, flush=True)
                cells = [scenario.name, kind.name, "–", "–", f"not measured: {str(error).splitlines()[0]}"]
            (self.latencies if scenario.is_latency else self.beside).append(cells)
            print("  " + " | ".join(cells), flush=True)

    def about(self):
        commit = subprocess.run(["git", "-C", str(ROOT), "log", "-1", "--format=%h, %cd", "--date=format:%-d %B %Y"],
                                capture_output=True, text=True).stdout.strip()
        streams = 50 if self.chosen.short else 200
        return (f"{streams} streams a run unless it says otherwise; medians (worst) of the runs. {os.cpu_count()} cores, Linux "
                f"{platform.release()}, commit {commit}.")

    def document(self):
        from table import document
        return document(self.about(), self.rows, self.beside, self.latencies, self.skipped)


def main():
    chosen = arguments()
    if not os.environ.get(MARK):
        reason = obstacle(not chosen.ci)
        if reason:
            print(f"lab: {'skipped: ' if chosen.ci else ''}{reason}", file=sys.stderr)
            sys.exit(0 if chosen.ci else 1)
    if not os.access(chosen.binary, os.X_OK):
        sys.exit(f"lab: {chosen.binary} is missing: run 'make lab', which builds it")
    isolate(not chosen.ci)
    import scenarios
    import table
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    wanted = [scenario for scenario in scenarios.ALL if chosen.only in scenario.name and (scenario.in_ci or not chosen.ci)]
    if not wanted:
        names = "".join(f"\n  {scenario.name}" for scenario in scenarios.ALL)
        sys.exit(f"lab: no scenario has '{chosen.only}' in its name. There are:{names}")
    lab = None
    directory = tempfile.mkdtemp(prefix="lab-")
    try:
        lab = Lab(chosen, directory)
        for scenario in wanted:
            lab.scenario(scenario)
        print("\n" + lab.document())
        if chosen.write:
            table.write(str(ROOT / "docs/benchmarks.md"), lab.document())
    except KeyboardInterrupt:
        print("lab: interrupted; everything was removed", file=sys.stderr)
        sys.exit(130)
    finally:
        if lab:
            lab.world.close()
        shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if lab.failed else 0)


if __name__ == "__main__":
    main()
