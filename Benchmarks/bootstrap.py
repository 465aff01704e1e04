"""Two nodes of ours, in the ways that are measured."""

import os
import subprocess
import time

from pair import TRUST_DOMAIN, Peer, PeerUnavailable, free_port


class Bootstrap(Peer):
    name = "bootstrap"
    binary = None
    can_be_distant = True
    # Seconds until a node is ready, at most.
    ready_within = 20
    node_options = ()

    def node(self, name, configuration):
        path = self.write(f"{name}.yaml", configuration)
        process = self.spawn([self.binary, "node", "--config", path, *self.node_options], stdout=subprocess.PIPE)
        # One line `ready NAME ADDRESS` for each listener, here one.
        os.set_blocking(process.stdout.fileno(), False)
        deadline = time.monotonic() + self.ready_within
        seen = b""
        while b"ready" not in seen or not seen.endswith(b"\n"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerUnavailable(f"bootstrap node ({name}) did not get ready: {self.logs()}")
            seen += process.stdout.read() or b""
            time.sleep(0.02)

    def start_node_server(self, tunnel, listener=""):
        """`listener`: more keys of it."""
        self.node("server", f"""\
identity: {self.certificates}/server
listeners:
- {{name: hbone, bind: "127.0.0.1:{tunnel}", protocol: hbone{listener}}}
policy:
- name: benchmark
  action: ALLOW
  rules:
  - from: [{{namespaces: [default]}}]
    to: [{{ports: [{self.target}]}}]
""")

    def start_node_client(self, way):
        """`way`: the lines of its endpoint that say how the server is reached."""
        lines = "".join(f"  {line}\n" for line in way)
        self.node("client", f"""\
identity: {self.certificates}/client
listeners:
- {{name: in, bind: "127.0.0.1:{self.port}", protocol: tcp, forwardTo: "127.0.0.1:{self.target}"}}
endpoints:
- match: "127.0.0.1:{self.target}"
  address: "127.0.0.1:{self.target}"
  identity: "spiffe://{TRUST_DOMAIN}/ns/default/sa/server"
{lines}""")

    def way(self, tunnel):
        return [f'hbone: "127.0.0.1:{tunnel}"']

    def start(self):
        self.port, tunnel = free_port(), free_port()
        self.start_node_server(tunnel)
        self.start_node_client(self.way(self.reach(tunnel)))
        # The server was started first; the report names the client side first.
        self.processes.reverse()


class BootstrapOpenSSL(Bootstrap):
    """The same binary with OpenSSL's own AES-GCM, where ours would run (docs/dependencies.md)."""

    name = "bootstrap, AES by OpenSSL"
    environment = {"BOOTSTRAP_AES_GCM": "openssl"}


class BootstrapOneLoop(Bootstrap):
    """The same binary with one event loop for each node, as the peers with one thread have."""

    name = "bootstrap, one loop"
    can_be_distant = False
    node_options = ("--loops", "1")


class BootstrapBefore(Bootstrap):
    """Another build of ours, of an earlier commit, beside this one: what a change of the code has changed (`run.py --before PATH`)."""

    name = "bootstrap, before"
    binary = None
