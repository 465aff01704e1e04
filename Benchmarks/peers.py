"""The proxies that are measured. Each is a pair on loopback: load client -> client proxy == tunnel == server proxy -> load server."""

import getpass
import json
import os
import signal
import socket
import subprocess
import time

TRUST_DOMAIN = "bench.example"
# The name of a proxy of the web, which no node trusts.
PROXY = "tunnel.example.net"
LONG_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../Tests/Peers/network/delay.py")


class PeerUnavailable(Exception):
    """The program is not installed, or does not start here."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, process, what, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PeerUnavailable(f"{what} ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise PeerUnavailable(f"{what} does not listen on port {port} after {seconds} s")


def make_certificates(directory):
    """A root, and what it vouches for, in Istio's file names, by the openssl command line: nodes with SPIFFE identities, a proxy with a name."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory)

    def key(path):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
        os.chmod(os.path.join(directory, path), 0o600)

    key("ca.key")
    openssl("req", "-x509", "-new", "-key", "ca.key", "-sha256", "-days", "2", "-subj", "/CN=benchmark root",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-addext", f"subjectAltName=URI:spiffe://{TRUST_DOMAIN}", "-out", "ca.pem")
    for name in ("server", "client", "gateway", "proxy"):
        os.mkdir(os.path.join(directory, name), 0o700)
        key(f"{name}/key.pem")
        identity = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{name}"
        with open(os.path.join(directory, f"{name}.ext"), "w") as extensions:
            extensions.write("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
                             "extendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n"
                             f"subjectAltName=critical,{'DNS:' + PROXY if name == 'proxy' else 'URI:' + identity}\n")
        openssl("req", "-new", "-key", f"{name}/key.pem", "-subj", "/", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-sha256", "-days", "1", "-extfile", f"{name}.ext", "-out", f"{name}/cert-chain.pem")
        with open(os.path.join(directory, "ca.pem")) as root:
            with open(os.path.join(directory, name, "root-cert.pem"), "w") as copy:
                copy.write(root.read())


class Peer:
    """One pair. `start` makes `port` accept; `processes` are the two proxies, client side first."""

    name = ""
    # What the load client adds: nothing, or the CONNECT request that the proxy wants.
    load_options = ()
    # Measures that would not compare like with like.
    skips = ()
    # Whether its tunnel can be led over a long path; see `reach`.
    can_be_distant = False
    is_distant = False
    # Whether several connections over the long path say something: where a connection has a window of its own.
    measures_long_many = False
    # What its programs find in their environment besides.
    environment = {}

    def __init__(self, directory, target):
        # A comma would end a value in the configuration files that name it.
        self.directory = os.path.join(directory, self.name.replace(", ", "-").replace(" ", "-").replace("/", "-"))
        self.certificates = os.path.join(directory, "certificates")
        self.target = target
        self.port = None
        self.processes = []
        self.path = None
        os.mkdir(self.directory)

    def start(self):
        raise NotImplementedError

    def spawn(self, arguments, ready_port=None, **options):
        log = open(os.path.join(self.directory, f"log-{len(self.processes)}"), "wb")
        options.setdefault("env", {**os.environ, **self.environment})
        try:
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=options.pop("stdout", log),
                                       stderr=log, start_new_session=True, **options)
        except FileNotFoundError as error:
            raise PeerUnavailable(f"{arguments[0]} is not installed") from error
        self.processes.append(process)
        if ready_port is not None:
            wait_for_port(ready_port, process, self.name)
        return process

    def reach(self, port):
        """The port by which the client proxy reaches the server proxy: itself, or a path of 100 ms and 1 Gbit/s to it."""
        if not self.is_distant:
            return port
        self.path = subprocess.Popen(["python3", "-u", LONG_PATH, f"127.0.0.1:{port}", "--round-trip", "100", "--rate", "125e6"],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        return int(self.path.stdout.readline())

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def stop(self):
        # Each proxy is the leader of its own session; its children (sshd's) go with it.
        for process in self.processes:
            for step in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, step)
                    process.wait(5)
                    break
                except subprocess.TimeoutExpired:
                    continue
                except ProcessLookupError:
                    break
        if self.path:
            self.path.stdin.close()
            self.path.wait()

    def logs(self):
        """The last lines of what the proxies wrote, for the report of a failure."""
        text = []
        for index in range(len(self.processes)):
            with open(os.path.join(self.directory, f"log-{index}"), errors="replace") as log:
                text += log.read().splitlines()[-5:]
        return "\n".join(text)


class Direct(Peer):
    """No tunnel at all: what the load tool and the kernel can do."""

    name = "no tunnel"

    def start(self):
        self.port = self.target


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

    def start_node_server(self, tunnel):
        self.node("server", f"""\
identity: {self.certificates}/server
listeners:
- {{name: hbone, bind: "127.0.0.1:{tunnel}", protocol: hbone}}
policy:
- name: benchmark
  action: ALLOW
  rules:
  - from: [{{namespaces: [default]}}]
    to: [{{ports: [{self.target}]}}]
""")

    def start_node_client(self, tunnel, more=""):
        self.node("client", f"""\
identity: {self.certificates}/client
listeners:
- {{name: in, bind: "127.0.0.1:{self.port}", protocol: tcp, forwardTo: "127.0.0.1:{self.target}"}}
endpoints:
- match: "127.0.0.1:{self.target}"
  address: "127.0.0.1:{self.target}"
  hbone: "127.0.0.1:{tunnel}"
  identity: "spiffe://{TRUST_DOMAIN}/ns/default/sa/server"
{more}""")

    def start(self):
        self.port, tunnel = free_port(), free_port()
        self.start_node_server(tunnel)
        self.start_node_client(self.reach(tunnel))
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


class Envoy(Peer):
    """CONNECT over mTLS HTTP/2 between two Envoys, with the windows that Istio sets."""

    name = "envoy"
    binary = None
    can_be_distant = True
    windows = {"initial_stream_window_size": 4 << 20, "initial_connection_window_size": 16 << 20}

    def transport(self, kind, name, peer):
        context = {
            "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{
                    "certificate_chain": {"filename": f"{self.certificates}/{name}/cert-chain.pem"},
                    "private_key": {"filename": f"{self.certificates}/{name}/key.pem"},
                }],
                "validation_context": {
                    "trusted_ca": {"filename": f"{self.certificates}/ca.pem"},
                    "match_typed_subject_alt_names": [{
                        "san_type": "URI", "matcher": {"exact": f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{peer}"}}],
                },
            },
        }
        if kind == "DownstreamTlsContext":
            context["require_client_certificate"] = True
        return {"name": "tls", "typed_config": context}

    @staticmethod
    def address(port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def cluster(self, name, port, **more):
        return {
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{
                "max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]},
            "load_assignment": {"cluster_name": name, "endpoints": [{
                "lb_endpoints": [{"endpoint": {"address": self.address(port)}}]}]},
            **more,
        }

    def envoy(self, name, listeners, clusters, port, **more):
        admin = os.path.join(self.directory, f"{name}-admin.sock")
        path = self.write(f"{name}.json", json.dumps({
            "admin": {"address": {"pipe": {"path": admin}}},
            "static_resources": {"listeners": listeners, "clusters": clusters},
            **more,
        }))
        self.spawn([self.binary, "-c", path, "--disable-hot-restart", "--log-level", "warn"], port)

    def start_server(self, name, peer, tunnel, target):
        """Ends mutual TLS and CONNECT, and dials `target`."""
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
                     "HttpConnectionManager",
            "stat_prefix": "tunnel", "codec_type": "HTTP2", "stream_idle_timeout": "0s",
            "http2_protocol_options": {"allow_connect": True, **self.windows},
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                "match": {"connect_matcher": {}},
                "route": {"cluster": "target", "timeout": "0s",
                          "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}]}]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        }
        self.envoy(name, [{
            "name": "tunnel", "address": self.address(tunnel),
            "filter_chains": [{
                "transport_socket": self.transport("DownstreamTlsContext", name, peer),
                "filters": [{"name": "http", "typed_config": manager}]}],
        }], [self.cluster("target", target)], tunnel)

    def tunneling(self, cluster):
        """Puts a connection into a CONNECT for the target."""
        return {"filters": [{"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": cluster, "cluster": cluster, "idle_timeout": "0s",
            "tunneling_config": {"hostname": f"127.0.0.1:{self.target}"}}}]}

    def originating(self, peer):
        """What makes a cluster one of mutual TLS and HTTP/2."""
        return {
            "transport_socket": self.transport("UpstreamTlsContext", "client", peer),
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"allow_connect": True, **self.windows}}}},
        }

    def start(self):
        self.port, tunnel = free_port(), free_port()
        self.start_server("server", "client", tunnel, self.target)
        self.envoy("client", [{
            "name": "in", "address": self.address(self.port), "filter_chains": [self.tunneling("tunnel")],
        }], [self.cluster("tunnel", self.reach(tunnel), **self.originating("server"))], self.port)
        self.processes.reverse()


class EnvoyDefaults(Envoy):
    name = "envoy, default windows"
    windows = {}


class SSH(Peer):
    """`ssh -L` to an sshd of its own, with the cipher that both choose by themselves."""

    name = "ssh -L"
    options = []
    can_be_distant = True
    measures_long_many = True

    def start_server(self):
        """An sshd, and the keys that it takes; returns the port by which a client reaches it."""
        tunnel = free_port()
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(self.directory, name)],
                           check=True)
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        configuration = self.write("sshd_config", f"""\
ListenAddress 127.0.0.1:{tunnel}
HostKey {self.directory}/host_key
AuthorizedKeysFile {self.directory}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
""")
        self.spawn(["/usr/sbin/sshd", "-D", "-e", "-f", configuration], tunnel)
        port = self.reach(tunnel)
        with open(os.path.join(self.directory, "host_key.pub")) as key:
            self.write("known_hosts", f"[127.0.0.1]:{port} {key.read()}")
        return port

    def start(self):
        self.port = free_port()
        port = self.start_server()
        self.spawn(["ssh", "-F", "none", "-N", "-i", f"{self.directory}/user_key", "-p", str(port),
                    "-o", f"UserKnownHostsFile={self.directory}/known_hosts",
                    "-o", "ExitOnForwardFailure=yes", "-o", "IdentitiesOnly=yes", *self.options,
                    "-L", f"127.0.0.1:{self.port}:127.0.0.1:{self.target}", f"{getpass.getuser()}@127.0.0.1"],
                   self.port)
        self.processes.reverse()


class SSHAESGCM(SSH):
    name = "ssh -L, aes128-gcm"
    options = ["-c", "aes128-gcm@openssh.com"]


class BootstrapSSH(SSH):
    """The fallback without an agent: `connect --path ssh`, each connection a channel of an SSH session."""

    name = "bootstrap, ssh"
    more = []

    def start(self):
        self.port = free_port()
        port = self.start_server()
        self.spawn([Bootstrap.binary, "connect", f"{getpass.getuser()}@127.0.0.1", "--path", "ssh", "-F", "none", *self.more,
                    "-i", f"{self.directory}/user_key", "-p", str(port),
                    "-o", f"UserKnownHostsFile={self.directory}/known_hosts",
                    "-L", f"127.0.0.1:{self.port}:127.0.0.1:{self.target}"], self.port)
        self.processes.reverse()


class BootstrapSSHEngine(BootstrapSSH):
    """The same, by the user's own ssh from the first stream on."""

    name = "bootstrap, ssh engine"
    more = ["--ssh-engine", "openssh"]


class BootstrapSSHLibrary(BootstrapSSH):
    """The same, by libssh2 alone."""

    name = "bootstrap, libssh2 engine"
    more = ["--ssh-engine", "libssh2"]


class BootstrapOverSSH(SSH, Bootstrap):
    """The fallback with an agent: mutual TLS and HTTP/2 inside of SSH, between two nodes."""

    name = "bootstrap, h2-over-ssh"

    def start(self):
        tunnel = free_port()
        self.port = free_port()
        self.start_node_server(tunnel)
        port = self.start_server()
        self.start_node_client(tunnel, f"""\
  path: h2-over-ssh
  ssh: {{destination: "{getpass.getuser()}@127.0.0.1:{port}", identityFile: {self.directory}/user_key, knownHosts: {self.directory}/known_hosts}}
""")
        self.processes.reverse()


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
