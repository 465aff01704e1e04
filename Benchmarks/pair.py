"""A pair of proxies on loopback, and what all of them need: ports, certificates, processes."""

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
