#!/usr/bin/env python3
"""Measures how fast a change of the mesh's directory is in force on many nodes of this machine, and what it costs.

    scripts/measure-directory.py [--nodes N] [--entries N…] [--changes N] [--store file|etcd] [--binary PATH] [--limit SECONDS]

Starts N nodes that follow a directory (in an etcd of its own with TLS, or in a file) with so many devices in it, changes
it again and again, and prints how long it took until each node decided by the change: from the moment before `bootstrap
mesh put` was started, and from the moment it had ended; and how much of a processor a node takes for a change, which
says how long all nodes of one machine need at the least. Each number of --entries is measured with nodes of its own.
Exits with 1 where a 99th percentile of the time after `put` is above --limit.
"""

import argparse
import os
import pathlib
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Bench:
    def __init__(self, options, entries):
        self.options = options
        self.entries = entries
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="directory-"))
        self.environment = dict(os.environ, BOOTSTRAP_HOME=str(self.place / "home"), HOME=str(self.place))
        self.processes = []
        self.selector = selectors.DefaultSelector()
        # What each node has said of a line that has not ended, and lines that nobody has looked at: which node, and when.
        self.buffers = [b""] * options.nodes
        self.said = []

    def run(self, *arguments):
        result = subprocess.run(
            [self.options.binary, *arguments], env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if result.returncode:
            raise SystemExit(f"bootstrap {' '.join(arguments)}: {result.stderr}")
        return result.stdout

    def start_etcd(self):
        credential = self.place / "etcd"
        self.run("ca", "issue", "--id", "ns/etcd/sa/member", "--ip", "127.0.0.1", "--out", str(credential))
        client, peer = free_port(), free_port()
        url = f"https://127.0.0.1:{client}"
        files = ["cert-file", "cert-chain.pem"], ["key-file", "key.pem"], ["trusted-ca-file", "root-cert.pem"]
        arguments = [f"--{name}={credential}/{file}" for name, file in files] + ["--client-cert-auth"]
        self.processes.append(
            subprocess.Popen(
                ["etcd", f"--data-dir={self.place}/data", f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
                 f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                 f"--initial-cluster=default=http://127.0.0.1:{peer}", "--log-level=error", *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )
        self.settings = f'{{etcd: ["{url}"], prefix: /mesh/bench.example/, credential: {credential}'
        self.arguments = ["--directory", f"{url}/mesh/bench.example/", "--credential", str(credential)]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", client)) == 0:
                    return
            time.sleep(0.05)
        raise SystemExit("etcd does not start")

    def content(self, change):
        lines = ["endpoints:", f'- {{match: "change{change}.example:1", hbone: "10.0.0.1:15008"}}', "devices:"]
        for number in range(self.entries):
            address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            lines.append(
                f'- {{name: "dev{number}", identity: "spiffe://bench.example/ns/prod/sa/dev{number}", hbone: ["{address}:15008"]}}'
            )
        return "\n".join(lines) + "\n"

    def put(self, change, is_first=False):
        """When it began and ended, and which revision it made."""
        file = self.place / "change.yaml"
        head = ""
        if not is_first:
            head = "".join(line for line in self.run("mesh", "get", *self.arguments).splitlines(True)
                           if line.startswith("# ") and not line.startswith("# from"))
        file.write_text(head + self.content(change))
        begin = time.monotonic()
        with subprocess.Popen(
            [self.options.binary, "mesh", "put", str(file), *self.arguments], env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        ) as put:
            # Nodes have it before the command ends: what they say meanwhile is noted down with its time.
            self.selector.register(put.stdout, selectors.EVENT_READ, None)
            text = b""
            while data := self.listen(1):
                text += data if isinstance(data, bytes) else b""
            self.selector.unregister(put.stdout)
        end = time.monotonic()
        if put.returncode:
            raise SystemExit(f"bootstrap mesh put: {put.returncode}")
        return begin, end, text.split()[-1].decode()

    def listen(self, seconds):
        """What `put` has printed, if it has; empty once it has ended; True where only nodes, or nobody, had something to say."""
        printed = True
        for key, _ in self.selector.select(seconds):
            data = os.read(key.fileobj.fileno(), 1 << 16)
            now = time.monotonic()
            if key.data is None:
                printed = data
                continue
            if not data:
                raise SystemExit(f"node {key.data} has ended: {self.buffers[key.data].decode(errors='replace')}")
            lines = (self.buffers[key.data] + data).split(b"\n")
            self.buffers[key.data] = lines[-1]
            self.said += [(key.data, now, line) for line in lines[:-1]]
        return printed

    def start_nodes(self):
        self.nodes = []
        self.run("ca", "issue", "--id", "ns/prod/sa/node", "--out", str(self.place / "identity"))
        for number in range(self.options.nodes):
            file = self.place / f"node{number}.yaml"
            file.write_text(
                f"identity: identity\nlisteners:\n- {{name: in, bind: \"127.0.0.1:0\", protocol: socks5}}\n"
                f"directory: {self.settings}, state: {self.place}/state{number}}}\n"
            )
            node = subprocess.Popen(
                [self.options.binary, "node", "--config", str(file), "--loops", "1"],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )
            os.set_blocking(node.stderr.fileno(), False)
            self.selector.register(node.stderr, selectors.EVENT_READ, number)
            self.nodes.append(node)
            self.processes.append(node)

    def wait(self, revision, limit=120):
        """For each node, when it said that it has the revision."""
        times = {}
        deadline = time.monotonic() + limit
        wanted = f"revision={revision}".encode(), f"revision: {revision}".encode()
        while True:
            for number, moment, line in self.said:
                if any(text in line for text in wanted):
                    times.setdefault(number, moment)
            self.said = []
            if len(times) == self.options.nodes:
                return list(times.values())
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.options.nodes - len(times)} nodes do not have revision {revision} after {limit} s")
            self.listen(1)

    def measure(self):
        options = self.options
        self.run("ca", "init", "--trust-domain", "bench.example")
        if options.store == "etcd":
            self.start_etcd()
        else:
            self.settings = f"{{file: {self.place}/mesh.yaml"
            self.arguments = ["--directory", str(self.place / "mesh.yaml")]
        begin, end, revision = self.put(0, is_first=True)
        print(f"{options.store}, {self.entries} devices, {options.nodes} nodes", flush=True)
        print(f"the first put: {end - begin:.2f} s")
        self.start_nodes()
        self.wait(revision)
        spent = sum(processor_seconds(node.pid) for node in self.nodes)
        whole, after = [], []
        for change in range(1, options.changes + 1):
            begin, end, revision = self.put(change)
            times = self.wait(revision)
            whole += [moment - begin for moment in times]
            after += [max(0.0, moment - end) for moment in times]
        for name, values in ("from before put", whole), ("from after put", after):
            shares = ", ".join(f"p{int(share * 100)} {percentile(values, share):.3f} s" for share in (0.5, 0.9, 0.99))
            print(f"in force {name}: {shares}, longest {max(values):.3f} s ({len(values)} of {options.changes} changes)")
        spent = sum(processor_seconds(node.pid) for node in self.nodes) - spent
        print(f"processor time of a node for a change: {spent / len(self.nodes) / options.changes:.3f} s")
        print(f"memory of a node: {sum(resident(node.pid) for node in self.nodes) / len(self.nodes):.1f} MiB")
        is_reached = percentile(after, 0.99) <= options.limit
        print(f"p99 of at most {options.limit} s after put: {'reached' if is_reached else 'MISSED'}", flush=True)
        return is_reached

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.place, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--entries", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--store", choices=["file", "etcd"], default="etcd")
    parser.add_argument("--binary", default=str(ROOT / ".build/release/bootstrap"))
    parser.add_argument("--limit", type=float, default=1.0)
    options = parser.parse_args()
    are_reached = []
    for entries in options.entries:
        bench = Bench(options, entries)
        try:
            are_reached.append(bench.measure())
        finally:
            bench.end()
    return 0 if all(are_reached) else 1


if __name__ == "__main__":
    sys.exit(main())
