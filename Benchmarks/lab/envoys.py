"""The benchmarks' pair of Envoys, on two machines of the lab."""

import os
import pathlib
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
import peers  # noqa: E402
from machines import DEVICE1, Skipped  # noqa: E402

PORT, VERSION = 15009, "1.40.0"


class EnvoyPair(peers.Envoy):
    # What finds a connection that does not answer, in both.
    windows = peers.Envoy.windows | {"connection_keepalive": {"interval": "1s", "timeout": "3s"}}

    def __init__(self, world, number, entry, service):
        self.world, self.machine = world, None
        cache = os.environ.get("BOOTSTRAP_TESTS_CACHE") or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bootstrap-tests")
        self.binary = os.path.join(cache, f"envoy-{VERSION}/envoy")
        if not os.access(self.binary, os.X_OK):
            raise Skipped("Envoy is not installed (scripts/install-dependencies.sh bench)")
        top = os.path.join(world.directory, f"envoy-{number}")
        os.makedirs(top)
        super().__init__(top, service)
        self.certificates = os.path.join(world.directory, "envoy-certificates")
        if not os.path.exists(self.certificates):
            os.makedirs(self.certificates)
            peers.make_certificates(self.certificates)
        self.port, self.places = entry, {}

    def address(self, port):
        return {"socket_address": {"address": self.places.get(port, "127.0.0.1"), "port_value": port}}

    def spawn(self, arguments, ready_port=None, **options):
        log = open(os.path.join(self.directory, f"log-{len(self.processes)}"), "wb")
        process = self.machine.start(*arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        self.processes.append(process)
        return process

    def start(self):
        self.machine, self.places = self.world.network["device1"], {PORT: "0.0.0.0"}
        self.start_server("server", "client", PORT, self.target)
        self.machine, self.places = self.world.operator, {PORT: DEVICE1}
        self.envoy("client", [{
            "name": "in", "address": self.address(self.port), "filter_chains": [self.tunneling("tunnel")],
        }], [self.cluster("tunnel", PORT, **self.originating("server"))], self.port)
