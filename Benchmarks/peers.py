"""The proxies that are measured. Each is a pair on loopback: load client -> client proxy == tunnel == server proxy -> load server."""

import os
import subprocess

from bootstrap import Bootstrap, BootstrapBefore, BootstrapOneLoop, BootstrapOpenSSL
from envoy import Envoy, EnvoyDefaults
from overssh import SSH, SSHAESGCM, BootstrapOverSSH, BootstrapSSH, BootstrapSSHEngine, BootstrapSSHLibrary
from pair import PROXY, TRUST_DOMAIN, Peer, PeerUnavailable, free_port, make_certificates

__all__ = ["ALL", "PROXY", "TRUST_DOMAIN", "Bootstrap", "Envoy", "Peer", "PeerUnavailable", "free_port", "make_certificates"]


class Direct(Peer):
    """No tunnel at all: what the load tool and the kernel can do."""

    name = "no tunnel"

    def start(self):
        self.port = self.target


class Stunnel(Peer):
    """mTLS with a connection for each stream."""

    name = "stunnel"

    def start(self):
        self.port, tunnel = free_port(), free_port()
        common = f"foreground = yes\npid =\nCAfile = {self.certificates}/ca.pem\nverifyChain = yes\nsocket = l:TCP_NODELAY=1\n" \
                 "socket = r:TCP_NODELAY=1\n"
        for side, accept, connect, client, ready in (("server", tunnel, self.target, "no", tunnel),
                                                     ("client", self.port, tunnel, "yes", self.port)):
            path = self.write(f"{side}.conf", common
                              + f"cert = {self.certificates}/{side}/cert-chain.pem\nkey = {self.certificates}/{side}/key.pem\n"
                              + f"[tunnel]\nclient = {client}\naccept = 127.0.0.1:{accept}\nconnect = 127.0.0.1:{connect}\n")
            self.spawn(["stunnel", path], ready)
        self.processes.reverse()


class Nghttpx(Peer):
    """HTTP/2 proxies at both ends, on the same two libraries as bootstrap. The load client speaks HTTP/1.1 CONNECT to it, and
    the load server is the HTTP/1 proxy behind it, so opens, which would carry one more round trip, are left out."""

    name = "nghttpx"
    skips = ("opens 16",)

    def start(self):
        self.port, tunnel = free_port(), free_port()
        self.load_options = ("--connect", f"127.0.0.1:{self.target}")
        common = ["nghttpx", "--conf=/dev/null", "--http2-proxy", "--workers=1", "--errorlog-file=/dev/stderr",
                  "--accesslog-file=/dev/null", "--stream-read-timeout=1h", "--stream-write-timeout=1h",
                  "--frontend-http2-window-size=4M", "--frontend-http2-connection-window-size=16M",
                  "--backend-http2-window-size=4M", "--backend-http2-connection-window-size=16M",
                  # Its limits of 8 and 100 are lower than the loads.
                  "--backend-connections-per-host=100000", "--frontend-http2-max-concurrent-streams=100000",
                  "--backend-http2-max-concurrent-streams=100000"]
        server, client = f"{self.certificates}/server", f"{self.certificates}/client"
        self.spawn([*common, f"--frontend=127.0.0.1,{tunnel}", f"--backend=127.0.0.1,{self.target}",
                    "--verify-client", f"--verify-client-cacert={server}/root-cert.pem",
                    f"{server}/key.pem", f"{server}/cert-chain.pem"], tunnel)
        # It can check a backend's certificate by DNS name only, which a SPIFFE identity does not have.
        self.spawn([*common, f"--frontend=127.0.0.1,{self.port};no-tls",
                    f"--backend=127.0.0.1,{tunnel};;proto=h2;tls", "--insecure",
                    f"--client-private-key-file={client}/key.pem", f"--client-cert-file={client}/cert-chain.pem"],
                   self.port)
        self.processes.reverse()


class Rust(Peer):
    """ztunnel's libraries (tokio, h2, rustls) in a small program of ours, `Benchmarks/Rust`: one connection, a thread for each
    proxy. Windows of 1 and 16 MiB that do not grow, so it is not led over the long path."""

    name = "rust"
    build = os.path.join(os.path.dirname(os.path.abspath(__file__)), "Rust/build.sh")

    def start(self):
        built = subprocess.run([self.build], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if built.returncode != 0:
            raise PeerUnavailable(f"Benchmarks/Rust/build.sh failed: {built.stderr.strip().splitlines()[-1:] or 'no message'}")
        binary = built.stdout.strip()
        self.port, tunnel = free_port(), free_port()
        identity = f"spiffe://{TRUST_DOMAIN}/ns/default/sa"
        self.spawn([binary, "server", f"127.0.0.1:{tunnel}", f"{self.certificates}/server", f"{identity}/client"], tunnel)
        self.spawn([binary, "client", f"127.0.0.1:{self.port}", f"127.0.0.1:{tunnel}", f"127.0.0.1:{self.target}",
                    f"{self.certificates}/client", f"{identity}/server"], self.port)
        self.processes.reverse()


ALL = [Direct, Bootstrap, BootstrapOneLoop, BootstrapOpenSSL, BootstrapBefore, Envoy, EnvoyDefaults, SSH, SSHAESGCM, Rust, BootstrapSSH,
       BootstrapSSHEngine, BootstrapSSHLibrary, BootstrapOverSSH, Stunnel, Nghttpx]
