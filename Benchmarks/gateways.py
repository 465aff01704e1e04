#!/usr/bin/env python3
"""Measures gateways: HTTP ingress beside Envoy doing the same, plain TCP egress beside HAProxy, inner mutual TLS beside Envoy's, and
what resumable streams and records cost.

    Benchmarks/gateways.py [--binary BOOTSTRAP] [--load LOAD] [--rounds N] [--seconds S] [--only ingress|egress|inner|options] [--no-write]

Peers take turns within each round; what counts is the ratio of a round, and processor time for each request, gigabyte and open.
Writes a table to docs/benchmarks.md.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile

import hops
import peers
import report
import run

HERE = pathlib.Path(__file__).resolve().parent
BEGIN, END = "<!-- gateways: begin (written by make bench-fronts) -->", "<!-- gateways: end -->"
BODY = 1024
# Clients of the HTTP gateways, at once; with HTTP/2 they share connections.
WIDTH = 64
HTTP2_CONNECTIONS = 4


class HAProxyServer(peers.Peer):
    """The server behind every HTTP gateway: HAProxy, which answers by itself and costs less than anything before it."""

    name = "backend"

    def start(self):
        self.port = peers.free_port()
        body = self.write("body", "x" * BODY)
        path = self.write("haproxy.cfg", f"""\
global
    nbthread 1
defaults
    mode http
    timeout client 1h
    timeout server 1h
    timeout connect 5s
frontend server
    bind 127.0.0.1:{self.port}
    http-request return status 200 content-type text/plain file {body}
""")
        self.spawn(["haproxy", "-db", "-f", path], self.port)


ROUTES = """\
- name: web
  bind: "127.0.0.1:{port}"
  protocol: http
  routes: [{{to: "web.mesh:80"}}]
"""
WORLD = """\
policy:
- name: world
  action: ALLOW
  rules:
  - to: [{hosts: ["web.mesh"], ports: [80]}]
"""


class BootstrapIngress(peers.Bootstrap):
    name = "bootstrap"

    def start(self):
        self.port, tunnel = peers.free_port(), peers.free_port()
        self.start_node_server(tunnel)
        self.node("client", f"""\
identity: {self.certificates}/client
listeners:
{ROUTES.format(port=self.port)}\
endpoints:
- match: "web.mesh:80"
  address: "127.0.0.1:{self.target}"
  hbone: "127.0.0.1:{tunnel}"
  identity: "spiffe://{peers.TRUST_DOMAIN}/ns/default/sa/server"
{WORLD}""")
        self.processes.reverse()


class BootstrapSingle(peers.Bootstrap):
    name = "bootstrap, no tunnel"

    def start(self):
        self.port = peers.free_port()
        self.node("single", f"""\
identity: {self.certificates}/client
listeners:
{ROUTES.format(port=self.port)}\
endpoints:
- {{match: "web.mesh:80", address: "127.0.0.1:{self.target}", direct: true}}
{WORLD}""")


class EnvoyIngress(peers.Envoy):
    """An HTTP gateway whose upstream connections go through CONNECT tunnels, by an internal listener: as Istio's proxies do."""

    name = "envoy"

    def manager(self, cluster):
        return {"name": "http", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "web", "codec_type": "AUTO", "stream_idle_timeout": "0s", "use_remote_address": True,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                "match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}]}]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}

    def spawn_envoy(self, name, listeners, clusters, port, **more):
        path = self.write(f"{name}.json", json.dumps({
            "admin": {"address": {"pipe": {"path": os.path.join(self.directory, f"{name}-admin.sock")}}},
            "static_resources": {"listeners": listeners, "clusters": clusters}, **more}))
        self.spawn([self.binary, "-c", path, "--disable-hot-restart", "--log-level", "warn"], port)

    def start(self):
        super().start()
        # The terminating Envoy of the pair is as it is; the other one gets another front.
        tunnel = self.port
        client = self.processes[0]
        with open(os.path.join(self.directory, "client.json")) as file:
            configuration = json.load(file)
        os.killpg(client.pid, signal.SIGTERM)
        client.wait()
        resources = configuration["static_resources"]
        proxy = resources["listeners"][0]["filter_chains"]
        self.port = tunnel
        inner = {"name": "inner", "internal_listener": {}, "filter_chains": proxy}
        web = {"name": "web", "address": self.address(self.port), "filter_chains": [{"filters": [self.manager("through")]}]}
        through = self.cluster("through", 0)
        through["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {
            "address": {"envoy_internal_address": {"server_listener_name": "inner"}}}}]}]
        self.processes.remove(client)
        self.spawn_envoy("web", [web, inner], [through, *resources["clusters"]], self.port, bootstrap_extensions=[{
            "name": "envoy.bootstrap.internal_listener", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"}}])
        self.processes.reverse()


class EnvoySingle(EnvoyIngress):
    name = "envoy, no tunnel"

    def start(self):
        self.port = peers.free_port()
        web = {"name": "web", "address": self.address(self.port), "filter_chains": [{"filters": [self.manager("target")]}]}
        self.spawn_envoy("single", [web], [self.cluster("target", self.target)], self.port)


class BootstrapEgress(peers.Bootstrap):
    name = "bootstrap"

    def start(self):
        self.port = peers.free_port()
        self.node("egress", f"""\
identity: {self.certificates}/client
listeners:
- {{name: in, bind: "127.0.0.1:{self.port}", protocol: tcp, forwardTo: "target.example:80"}}
endpoints:
- {{match: "target.example:80", address: "127.0.0.1:{self.target}", direct: true}}
""")


class BootstrapEgressOneLoop(BootstrapEgress):
    name = "bootstrap, one loop"
    node_options = ("--loops", "1")


class HAProxy(peers.Peer):
    name = "haproxy"
    options = ""

    def start(self):
        self.port = peers.free_port()
        path = self.write("haproxy.cfg", f"""\
defaults
    mode tcp
    timeout client 1h
    timeout server 1h
    timeout connect 5s
    {self.options}
listen egress
    bind 127.0.0.1:{self.port}
    server target 127.0.0.1:{self.target}
""")
        self.spawn(["haproxy", "-db", "-f", path], self.port)


class HAProxySplice(HAProxy):
    """Bytes that stay in the kernel."""

    name = "haproxy, splice"
    options = "option splice-auto"


def wrk(peer, connections, seconds):
    """Requests per second, the 99th percentile in µs, and processor time for each request at each proxy."""
    before = [run.cpu_seconds(process.pid) for process in peer.processes]
    done = subprocess.run(["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--latency", f"http://127.0.0.1:{peer.port}/"],
                          capture_output=True, text=True, timeout=seconds + 60)
    used = [run.cpu_seconds(process.pid) - earlier for process, earlier in zip(peer.processes, before)]
    if done.returncode != 0 or "Socket errors" in done.stdout or "Non-2xx" in done.stdout:
        raise RuntimeError(done.stdout + done.stderr)
    requests = int(re.search(r"(\d+) requests in", done.stdout).group(1))
    tail, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", done.stdout).groups()
    return {"rate": float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout).group(1)),
            "p99": float(tail) * {"us": 1, "ms": 1e3, "s": 1e6}[unit], "cpu": 1e6 * sum(used) / requests}


def h2load(peer, connections, width, seconds):
    """Requests per second and processor time for each request at each proxy: HTTP/2 by prior knowledge."""
    before = [run.cpu_seconds(process.pid) for process in peer.processes]
    done = subprocess.run(["h2load", "-t", "1", "-c", str(connections), "-m", str(width // connections), "-D", str(seconds),
                           f"http://127.0.0.1:{peer.port}/"], capture_output=True, text=True, timeout=seconds + 60)
    used = [run.cpu_seconds(process.pid) - earlier for process, earlier in zip(peer.processes, before)]
    ended = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    if done.returncode != 0 or not ended or ended.groups()[1:] != ("0", "0", "0") or ended[1] == "0":
        raise RuntimeError(done.stdout + done.stderr)
    return {"rate": int(ended[1]) / seconds, "cpu": 1e6 * sum(used) / int(ended[1])}


# Title, key of the measure, how a value is read, whether more is better.
INGRESS = [
    (f"requests per second, {WIDTH} connections", "wide", lambda v: v["rate"], True),
    (f"CPU for each request, {WIDTH} connections, µs", "wide", lambda v: v["cpu"], False),
    (f"99th percentile, {WIDTH} connections, µs", "wide", lambda v: v["p99"], False),
    ("requests per second, 1 connection", "narrow", lambda v: v["rate"], True),
    ("CPU for each request, 1 connection, µs", "narrow", lambda v: v["cpu"], False),
    (f"HTTP/2: requests per second, {HTTP2_CONNECTIONS} connections, {WIDTH} at a time", "http2", lambda v: v["rate"], True),
    ("HTTP/2: CPU for each of these, µs", "http2", lambda v: v["cpu"], False),
    ("HTTP/2: requests per second, 1 connection, 1 at a time", "http2 one", lambda v: v["rate"], True),
    ("HTTP/2: CPU for each of these, µs, one at a time", "http2 one", lambda v: v["cpu"], False),
]
TCP = [
    ("up, 1 connection, MB/s", "up 1", lambda v: v["up"], True),
    ("down, 1 connection, MB/s", "down 1", lambda v: v["down"], True),
    ("up, 8 connections, MB/s", "up 8", lambda v: v["up"], True),
    ("down, 8 connections, MB/s", "down 8", lambda v: v["down"], True),
    ("CPU-s for each GB, up 1", "up 1", lambda v: sum(v["cpu"]), False),
    ("CPU-s for each GB, down 1", "down 1", lambda v: sum(v["cpu"]), False),
    ("CPU-s for each GB, up 8", "up 8", lambda v: sum(v["cpu"]), False),
    ("CPU-s for each GB, down 8", "down 8", lambda v: sum(v["cpu"]), False),
    ("opens per second, 16 at a time", "opens 16", lambda v: v["rate"], True),
    ("CPU for each open, µs", "opens 16", lambda v: sum(v["cpuEach"]), False),
    ("64 B round trips per second, 64 connections", "ping 64", lambda v: v["rate"], True),
    ("CPU for each of these, µs", "ping 64", lambda v: sum(v["cpuEach"]), False),
]


def compare(directory, target, kinds, measures, rounds):
    """`measures`: name → what measures a peer. Returns name of peer → name of measure → a value for each round."""
    running, values = [], {kind.name: {name: [] for name in measures} for kind in kinds}
    try:
        for kind in kinds:
            peer = kind(directory, target)
            running.append(peer)
            peer.start()
        for name, measure in measures.items():
            for peer in running:
                # Connections and pools are there.
                measure(peer, True)
            for turn in range(rounds):
                for peer in running[turn % len(running):] + running[:turn % len(running)]:
                    try:
                        values[peer.name][name].append(measure(peer, False))
                    except (RuntimeError, subprocess.TimeoutExpired) as error:
                        sys.exit(f"{peer.name}: {name}: {error}\n{peer.logs()}")
            print(f"measured: {name}", file=sys.stderr, flush=True)
    except peers.PeerUnavailable as error:
        sys.exit(f"{running[-1].name}: {error}\n{running[-1].logs()}")
    finally:
        for peer in running:
            peer.stop()
    return values


def table(values, quantities, others):
    """`others`: of each of ours, those it is divided by."""
    names = list(values)

    def cell(numbers):
        return f"{report.number(statistics.median(numbers))} ({report.number(min(numbers))}–{report.number(max(numbers))})"

    lines = [f"|  | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for title, measure, read, _ in quantities:
        lines.append(f"| {title} | " + " | ".join(cell([read(v) for v in values[name][measure]]) for name in names) + " |")
    pairs = [(ours, other) for ours, theirs in others.items() for other in theirs]
    lines += ["", "Ratios, medians of the rounds' ratios (and their range):", "",
              "|  | better is | " + " | ".join(f"{ours} ÷ {other}" for ours, other in pairs) + " |", "|---" * (len(pairs) + 2) + "|"]
    for title, measure, read, more in quantities:
        cells = []
        for ours, other in pairs:
            ratios = [read(a) / read(b) for a, b in zip(values[ours][measure], values[other][measure])]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        lines.append(f"| {title} | {'more' if more else 'less'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ingress(directory, arguments):
    server = HAProxyServer(directory, 0)
    try:
        server.start()
        values = compare(directory, server.port, [BootstrapIngress, EnvoyIngress, BootstrapSingle, EnvoySingle], {
            "wide": lambda peer, warm: wrk(peer, WIDTH, 1 if warm else arguments.seconds),
            "narrow": lambda peer, warm: wrk(peer, 1, 1 if warm else arguments.seconds),
            "http2": lambda peer, warm: h2load(peer, HTTP2_CONNECTIONS, WIDTH, 1 if warm else arguments.seconds),
            "http2 one": lambda peer, warm: h2load(peer, 1, 1, 1 if warm else arguments.seconds),
        }, arguments.rounds)
    finally:
        server.stop()
    return table(values, INGRESS, {"bootstrap": ["envoy"], "bootstrap, no tunnel": ["envoy, no tunnel"]})


def tcp(directory, arguments, name, kinds, measures, others):
    """Peers that carry bytes, between the load tool's client and its server."""
    load = arguments.load or run.build_load()
    target = peers.free_port()
    server = subprocess.Popen([load, "server", str(target)], stdout=subprocess.PIPE)
    try:
        server.stdout.readline()

        def measure(name):
            def once(peer, warm):
                if warm:
                    return run.run_load(load, run.MEASURES[name], peer, 0.3, 0)
                return run.measure(load, peer, run.MEASURES[name], arguments.seconds, 0.3)
            return once

        # A directory of its own: some peers of several comparisons have the same name.
        place = os.path.join(directory, name)
        os.mkdir(place)
        os.symlink("../certificates", os.path.join(place, "certificates"))
        values = compare(place, target, kinds, {name: measure(name) for name in dict.fromkeys(m for _, m, _, _ in measures)},
                         arguments.rounds)
    finally:
        server.terminate()
        server.wait()
    return table(values, measures, others)


def egress(directory, arguments):
    return tcp(directory, arguments, "egress", [BootstrapEgress, BootstrapEgressOneLoop, HAProxy, HAProxySplice], TCP,
               {"bootstrap": ["haproxy", "haproxy, splice"], "bootstrap, one loop": ["haproxy, splice"]})


def inner(directory, arguments):
    kinds = [peers.Bootstrap, hops.BootstrapDouble, hops.BootstrapTun, hops.EnvoyDouble]
    double, tun, envoy = (kind.name for kind in kinds[1:])
    return tcp(directory, arguments, "inner", kinds, TCP, {double: [envoy], tun: [envoy]})


def options(directory, arguments):
    kinds = [peers.Bootstrap, hops.BootstrapResumable, hops.BootstrapRecorded]
    return tcp(directory, arguments, "options", kinds, TCP, {kind.name: [peers.Bootstrap.name] for kind in kinds[1:]})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=str(HERE.parent / ".build/release/bootstrap"))
    parser.add_argument("--load", help="the load tool, if it is built already")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="for each peer, measure and round")
    parser.add_argument("--only", choices=["ingress", "egress", "inner", "options"])
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    cache = os.environ.get("BOOTSTRAP_TESTS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bootstrap-tests")
    peers.Envoy.binary = os.path.join(cache, "envoy-1.40.0/envoy")
    peers.Bootstrap.binary = os.path.abspath(arguments.binary)
    machine = run.machine()
    parts = [f"{machine['cores']} cores, {machine['processor']} ({machine['class']}), {arguments.rounds} interleaved rounds of "
             f"{arguments.seconds} s; medians (least–most). Envoy 1.40, HAProxy of Debian."]
    with tempfile.TemporaryDirectory(prefix="bootstrap-bench.") as directory:
        os.mkdir(os.path.join(directory, "certificates"))
        peers.make_certificates(os.path.join(directory, "certificates"))
        for name, title, measured in (("ingress", f"**HTTP ingress**, kept connections, answers of {BODY:,} bytes; HTTP/1.1 (wrk) and HTTP/2 (h2load):", ingress),
                                      ("egress", "**TCP egress**, one hop:", egress),
                                      ("inner", "**Inner mutual TLS** by a gateway (double HBONE) and by a proxy of the web (tun), beside "
                                                "a plain pair of nodes:", inner),
                                      ("options", "**Resumable streams**, and **access log and metrics**, beside a plain pair of nodes:",
                                       options)):
            if arguments.only in (None, name):
                parts += [title, measured(directory, arguments)]
    text = "\n\n".join(parts)
    print(text)
    if arguments.no_write or arguments.only:
        return
    path = HERE.parent / "docs/benchmarks.md"
    head, rest = path.read_text().split(BEGIN, 1)
    path.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
