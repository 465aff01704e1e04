#!/usr/bin/env python3
"""Measures what a stream costs that opens through a front, in processor time of both nodes, beside the `tcp` listener.

    Benchmarks/fronts.py [--binary BOOTSTRAP] [--opens N] [--rounds N] [--no-write]

Each client speaks as programs do: it waits for each answer before it goes on. The fronts take turns, and the median of the rounds
counts. As root it runs in a network namespace of its own, with `capture install` for the transparent listener; else that one is
left out. Writes a table to docs/benchmarks.md.
"""

import argparse
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading

import peers

HERE = pathlib.Path(__file__).resolve().parent
BEGIN, END = "<!-- fronts: begin (written by make bench-fronts) -->", "<!-- fronts: end -->"
# Connections at a time.
WIDTH = 8
# Of RFC 5737, led to the loopback interface of the namespace: what is captured on its way there.
CAPTURED = "192.0.2.1"
MARK = "BOOTSTRAP_BENCH_NAMESPACE"


class Nodes(peers.Bootstrap):
    """A node with several fronts, and the node behind it."""

    name = "fronts"
    captures = False

    def start(self):
        self.port, tunnel = peers.free_port(), peers.free_port()
        self.places = {name: ("127.0.0.1", peers.free_port()) for name in ("socks5", "http-proxy")}
        fronts = "".join(
            f'- {{name: {name}, bind: "127.0.0.1:{port}", protocol: {name}}}\n' for name, (_, port) in self.places.items())
        self.places["tcp"] = ("127.0.0.1", self.port)
        if self.captures:
            self.places["transparent"] = (CAPTURED, self.target)
            fronts += (f'- {{name: transparent, bind: "127.0.0.1:{peers.free_port()}", protocol: transparent, mode: redirect, '
                       f'capture: {{cidrs: ["{CAPTURED}/32"]}}}}\n')
        self.start_node_server(tunnel)
        self.node("client", f"""\
identity: {self.certificates}/client
listeners:
- {{name: in, bind: "127.0.0.1:{self.port}", protocol: tcp, forwardTo: "127.0.0.1:{self.target}"}}
{fronts}endpoints:
- match: "127.0.0.1:{self.target}"
  address: "127.0.0.1:{self.target}"
  hbone: "127.0.0.1:{tunnel}"
  identity: "spiffe://{peers.TRUST_DOMAIN}/ns/default/sa/server"
- match: "{CAPTURED}:{self.target}"
  address: "127.0.0.1:{self.target}"
  hbone: "127.0.0.1:{tunnel}"
  identity: "spiffe://{peers.TRUST_DOMAIN}/ns/default/sa/server"
""")
        if self.captures:
            configuration = os.path.join(self.directory, "client.yaml")
            installed = subprocess.run([self.binary, "capture", "install", "--config", configuration], capture_output=True, text=True)
            if installed.returncode != 0:
                raise peers.PeerUnavailable(f"capture install: {installed.stderr}")

    def processor_time(self):
        """Seconds of both nodes so far, user and system."""
        total = 0
        for process in self.processes:
            with open(f"/proc/{process.pid}/schedstat") as file:
                total += int(file.read().split()[0]) / 1e9
            for thread in os.listdir(f"/proc/{process.pid}/task"):
                if int(thread) == process.pid:
                    continue
                with open(f"/proc/{process.pid}/task/{thread}/schedstat") as file:
                    total += int(file.read().split()[0]) / 1e9
        return total


def echo_server():
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def serve(accepted):
        with accepted:
            while data := accepted.recv(4096):
                accepted.sendall(data)

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def receive(client, count):
    data = b""
    while len(data) < count:
        piece = client.recv(count - len(data))
        if not piece:
            sys.exit(f"the stream ended after {data!r}")
        data += piece
    return data


def handshake(client, front, target):
    if front == "socks5":
        client.sendall(b"\5\1\0")
        receive(client, 2)
        client.sendall(b"\5\1\0\1\x7f\0\0\1" + target.to_bytes(2, "big"))
        if receive(client, 10)[1] != 0:
            sys.exit("socks5: refused")
    elif front == "http-proxy":
        client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: x\r\n\r\n" % (target, target))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += receive(client, 1) if not answer else client.recv(4096)
        if b" 200 " not in answer:
            sys.exit(f"http-proxy: {answer!r}")


def opens(nodes, front, count):
    failures = []

    def work(share):
        try:
            run(share)
        except (OSError, SystemExit) as error:
            failures.append(f"{front}: {error}")

    def run(share):
        for _ in range(share):
            with socket.create_connection(nodes.places[front], timeout=20) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                handshake(client, front, nodes.target)
                client.sendall(b"e")
                receive(client, 1)

    threads = [threading.Thread(target=work, args=(count // WIDTH,)) for _ in range(WIDTH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(failures[0])


def own_namespace():
    """Starts this program anew in a network namespace of its own; returns there, or where there can be none, whether it is one."""
    if os.environ.get(MARK):
        for command in (["ip", "link", "set", "lo", "up"], ["ip", "route", "add", f"{CAPTURED}/32", "dev", "lo", "src", "127.0.0.1"]):
            subprocess.run(command, check=True)
        return True
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "nft", "list", "ruleset"], capture_output=True).returncode != 0:
        print("fronts: without root, or without network namespaces and nft, the transparent listener is left out")
        return False
    os.environ[MARK] = "1"
    os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])


def measure(arguments, captures):
    costs = {}
    with tempfile.TemporaryDirectory() as directory:
        os.mkdir(os.path.join(directory, "certificates"))
        peers.make_certificates(os.path.join(directory, "certificates"))
        Nodes.binary, Nodes.captures = os.path.abspath(arguments.binary), captures
        nodes = Nodes(directory, echo_server())
        try:
            nodes.start()
            costs = {front: [] for front in ["tcp", *(name for name in nodes.places if name != "tcp")]}
            for front in costs:
                opens(nodes, front, 10 * WIDTH)
            for _ in range(arguments.rounds):
                for front, values in costs.items():
                    before = nodes.processor_time()
                    opens(nodes, front, arguments.opens)
                    values.append((nodes.processor_time() - before) / (arguments.opens // WIDTH * WIDTH))
        except peers.PeerUnavailable as error:
            sys.exit(f"{error}\n{nodes.logs()}")
        finally:
            nodes.stop()
    return costs


def table(costs, arguments):
    lines = [f"{WIDTH} connections at a time, {arguments.opens} opens in each of {arguments.rounds} interleaved rounds; medians, "
             "and the rounds' range.", "",
             "| listener | CPU of both nodes for each open, µs | ÷ tcp |", "|---|---|---|"]
    for front, values in costs.items():
        ratios = [value / other for value, other in zip(values, costs["tcp"])]
        beside = "" if front == "tcp" else f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        lines.append(f"| {front} | {statistics.median(values) * 1e6:.0f} | {beside} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=str(HERE.parent / ".build/release/bootstrap"))
    parser.add_argument("--opens", type=int, default=1600, help="for each front and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    text = table(measure(arguments, own_namespace()), arguments)
    print(text)
    if arguments.no_write:
        return
    path = HERE.parent / "docs/benchmarks.md"
    head, rest = path.read_text().split(BEGIN, 1)
    path.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")


main()
