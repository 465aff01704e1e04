"""Counts the user-space instructions of two whole nodes with callgrind, for each stream that opens, carries a byte and ends, and for
each round trip of 64 bytes: figures that repeat on any machine, where times do not.

    Benchmarks/Instructions/nodes.py [--binary BOOTSTRAP] [--limit-open N] [--limit-round-trip N] [--profile DIRECTORY] [--more YAML]
        [--endpoint YAML]

The C library must be linked dynamically, as `make build` links it: libdispatch waits in sigsuspend, which valgrind's main thread does not
survive, so a library of one function takes its place. `--profile` keeps callgrind's files, to be read by callgrind_annotate. `--more` are lines for both configurations,
`--endpoint` one for the client's endpoint: what a feature costs that is off by default.
"""

import argparse
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import peers  # noqa: E402  (Benchmarks/peers.py)

SHIM = """
#include <signal.h>
#include <unistd.h>
int sigsuspend(const sigset_t *mask) { for (;;) pause(); }
"""
WARM_UP, OPENS, ROUND_TRIPS, WIDTH = 100, 500, 2000, 16
# How much goes in one record depends on what else the machine does: the least of so many counts does not.
COUNTS = 3


class CountedNodes(peers.Bootstrap):
    """A client node and a server node, each under callgrind."""

    name = "nodes"
    preload = None
    more = ""
    endpoint = ""
    ready_within = 120
    # With two, it depends on the time that there is which of them has a stream, and how many go in one record.
    node_options = ("--loops", "1")

    def node(self, name, configuration):
        super().node(name, f"{configuration}\n{self.more}\n")

    def way(self, tunnel):
        return [*super().way(tunnel), self.endpoint]

    def spawn(self, arguments, *others, **options):
        output = os.path.join(self.directory, f"callgrind-{len(self.processes)}")
        # `rep movsb` counts as one instruction for each byte: libc is told to copy by vectors.
        environment = dict(os.environ, LD_PRELOAD=self.preload,
                           GLIBC_TUNABLES="glibc.cpu.x86_rep_movsb_threshold=1099511627776")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", *arguments]
        return super().spawn(command, *others, env=environment, **options)

    def control(self, option):
        for process in self.processes:
            subprocess.run(["callgrind_control", option, str(process.pid)], check=True, capture_output=True)

    def counted(self, work):
        """The instructions of both nodes while `work` runs."""
        self.control("-z")
        before = set(os.listdir(self.directory))
        work()
        self.control("-d")
        total = 0
        for name in sorted(set(os.listdir(self.directory)) - before):
            with open(os.path.join(self.directory, name)) as file:
                total += int(re.search(r"^(?:summary|totals): (\d+)", file.read(), re.MULTILINE).group(1))
        return total


def echo_server():
    """Echoes what comes, each connection in its turn of one loop; returns its port. Ends with the process."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def serve():
        poll = select.epoll()
        poll.register(listener.fileno(), select.EPOLLIN)
        open_sockets = {}
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == listener.fileno():
                    accepted, _ = listener.accept()
                    open_sockets[accepted.fileno()] = accepted
                    poll.register(accepted.fileno(), select.EPOLLIN)
                    continue
                data = open_sockets[descriptor].recv(4096)
                if data:
                    open_sockets[descriptor].sendall(data)
                else:
                    poll.unregister(descriptor)
                    open_sockets.pop(descriptor).close()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def opens(port, count):
    """Connections opened, used for a byte each way, and closed, WIDTH of them at a time."""
    poll = select.epoll()
    under_way = {}
    started = done = 0

    def start():
        nonlocal started
        client = socket.create_connection(("127.0.0.1", port), timeout=60)
        client.sendall(b"e")
        under_way[client.fileno()] = client
        poll.register(client.fileno(), select.EPOLLIN)
        started += 1

    while done < count:
        while started < count and len(under_way) < WIDTH:
            start()
        ready = poll.poll(60)
        if not ready:
            sys.exit(f"nothing came back for 60 s; {done} of {count} streams are done")
        for descriptor, _ in ready:
            client = under_way.pop(descriptor)
            if client.recv(16) != b"e":
                sys.exit(f"stream {done} was not echoed")
            poll.unregister(descriptor)
            client.close()
            done += 1


def round_trips(port, count):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = bytes(64)
        for _ in range(count):
            client.sendall(message)
            received = 0
            while received < len(message):
                data = client.recv(len(message) - received)
                if not data:
                    sys.exit("the stream ended")
                received += len(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=str(HERE.parent.parent / ".build/release/bootstrap"))
    parser.add_argument("--limit-open", type=float)
    parser.add_argument("--limit-round-trip", type=float)
    parser.add_argument("--profile", help="a directory to make, for callgrind's files")
    parser.add_argument("--more", default="", help="lines of YAML for both nodes: 'accessLog: {file: /dev/null}'")
    parser.add_argument("--endpoint", default="", help="a line of YAML for the client's endpoint: 'resumable: true'")
    arguments = parser.parse_args()
    CountedNodes.more = arguments.more
    CountedNodes.endpoint = arguments.endpoint
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.profile or temporary
        os.makedirs(directory, exist_ok=True)
        source = os.path.join(directory, "shim.c")
        pathlib.Path(source).write_text(SHIM)
        CountedNodes.preload = os.path.join(directory, "shim.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", CountedNodes.preload, source], check=True)
        os.mkdir(os.path.join(directory, "certificates"))
        peers.make_certificates(os.path.join(directory, "certificates"))
        CountedNodes.binary = os.path.join(directory, "bootstrap")
        # Debian's valgrind cannot read what clang writes for C (DWARF 5); names of functions stay.
        subprocess.run(["objcopy", "--strip-debug", arguments.binary, CountedNodes.binary], check=True)
        nodes = CountedNodes(directory, echo_server())
        try:
            nodes.start()
            opens(nodes.port, WARM_UP)
            open_cost = min(nodes.counted(lambda: opens(nodes.port, OPENS)) for _ in range(COUNTS)) / OPENS
            # One connection is opened for all of them: a tenth of a per cent.
            trip_cost = nodes.counted(lambda: round_trips(nodes.port, ROUND_TRIPS)) / ROUND_TRIPS
        except peers.PeerUnavailable as error:
            sys.exit(f"{error}\n{nodes.logs()}")
        finally:
            nodes.stop()
    failed = False
    for what, cost, limit in (("stream that opens", open_cost, arguments.limit_open),
                              ("round trip of 64 bytes", trip_cost, arguments.limit_round_trip)):
        print(f"{cost:,.0f} user instructions of both nodes for each {what}")
        if limit and cost > limit:
            failed = True
            print(f"that is above the limit of {limit:,.0f}")
    sys.exit(1 if failed else 0)


main()
