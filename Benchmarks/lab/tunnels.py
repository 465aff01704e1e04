"""What runs on the machines: an sshd and a node on each device, gateways, the operator's CA, `connect`, and others beside it."""

import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys

import envoys
import machines
from machines import DEVICE1, FIREWALL, FORWARDED_SSH_PORT, GATEWAYS, HBONE_PORT, SSH_PORT, LabError, Skipped, end, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
SERVICE_PORT, LOCAL_PORT = 7007, 7000
SERVICE = f"127.0.0.1:{SERVICE_PORT}"
DEVICES = {"device1": (DEVICE1, SSH_PORT), "device2": (FIREWALL, FORWARDED_SSH_PORT)}


class Device:
    def __init__(self, machine, operator_key):
        self.machine = machine
        self.counts_file = os.path.join(machine.directory, "counts")
        host_key = os.path.join(machine.directory, "host_key")
        machine.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key)
        shutil.copy(operator_key + ".pub", os.path.join(machine.directory, "authorized_keys"))
        with open(host_key + ".pub") as file:
            self.host_key = " ".join(file.read().split()[:2])
        self.configuration = os.path.join(machine.directory, "sshd_config")
        with open(self.configuration, "w") as file:
            file.write(f"Port {SSH_PORT}\nHostKey {host_key}\nAuthorizedKeysFile {machine.directory}/authorized_keys\n"
                       f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
                       "Subsystem sftp internal-sftp\n")
        self.start_sshd()
        self.service = machine.start("python3", f"{HERE}/echo.py", str(SERVICE_PORT), self.counts_file, log="echo.log")
        wait_until(lambda: os.path.exists(self.counts_file), "the echo service")

    def start_sshd(self):
        self.sshd = self.machine.start("/usr/sbin/sshd", "-D", "-e", "-f", self.configuration, log="sshd.log")

    def stop_sshd(self):
        """The server and its sessions, as a machine does that restarts it without care for who is logged in."""
        for pid in self.machine.processes("sshd"):
            kill(pid, signal.SIGKILL)
        end(self.sshd)

    def node(self):
        found = self.machine.processes("bootstrap", "node")
        return [pid for pid in found if executable(pid).endswith("bootstrap")]

    def configuration_file(self):
        """That of its node."""
        for pid in self.node():
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().decode().split("\0")
            if "--config" in arguments:
                return arguments[arguments.index("--config") + 1]
        raise LabError("no node was found on the device")

    def node_configuration(self):
        with open(self.configuration_file()) as file:
            return file.read()

    def configure_node(self, line, present):
        """Has its configuration end with this line, or not, and the node started anew. Nothing where it is so already."""
        text = self.node_configuration()
        if (line in text) == present:
            return
        with open(self.configuration_file(), "w") as file:
            file.write(text + line if present else text.replace(line, ""))
        self.start_node(self.kill_node())
        address = f":{HBONE_PORT}"
        wait_until(lambda: address in self.machine.run("ss", "-Hltn"), "the node listens again")

    def kill_node(self):
        """kill -9. Returns what starts it again."""
        commands = []
        for pid in self.node():
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                commands.append(file.read().decode().rstrip("\0").split("\0"))
            kill(pid, signal.SIGKILL)
            # One that is about to go still looks like one that runs, and nobody would start the next.
            wait_until(lambda pid=pid: not executable(pid), "the killed node is gone")
        return commands

    def start_node(self, commands):
        # One that supervises has started its own.
        for command in commands:
            if not self.node():
                self.machine.start(*command, log="node.log")

    def signal_node(self, which):
        for pid in self.node():
            kill(pid, which)

    def counts(self):
        with open(self.counts_file) as file:
            return dict(zip(("opened", "clean", "reset"), map(int, file.read().split())))

    def close(self):
        for process in (self.sshd, self.service):
            end(process)


def kill(pid, which):
    try:
        os.kill(pid, which)
    except ProcessLookupError:
        pass


def executable(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return ""


class World:
    """The machines with all that runs on them for as long as the lab does."""

    def __init__(self, binary, directory):
        home = os.path.join(directory, "operator")
        os.makedirs(os.path.join(home, ".ssh"), mode=0o700)
        self.binary, self.directory = binary, directory
        environment = dict(os.environ, HOME=home, BOOTSTRAP_HOME=os.path.join(home, ".bootstrap"), LC_ALL="C")
        self.network = machines.Network(directory, environment)
        self.operator = self.network["operator"]
        self.key = os.path.join(home, ".ssh", "id_ed25519")
        self.operator.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        self.devices = {name: Device(self.network[name], self.key) for name in DEVICES}
        with open(os.path.join(home, ".ssh", "known_hosts"), "w") as file:
            for name, (address, port) in DEVICES.items():
                host = address if port == 22 else f"[{address}]:{port}"
                file.write(f"{host} {self.devices[name].host_key}\n")
        self.operator.run(binary, "ca", "init", "--trust-domain", "lab.example")
        for name, (address, port) in DEVICES.items():
            wait_until(lambda: self.reachable(address, port), f"the sshd of {name}", pause=0.1)
            self.operator.run(binary, "enroll", f"root@{address}:{port}", "--name", name, "--allow-port", str(SERVICE_PORT),
                              "--agent-binary", binary, "--base", self.network[name].directory)
        self.gateways = {}
        self.set_names({"gateway.lab": ["gateway1"], "gateways.lab": list(GATEWAYS)})

    def set_names(self, names):
        """The operator's /etc/hosts."""
        path = os.path.join(self.directory, "hosts")
        with open(path, "w") as file:
            file.write("127.0.0.1 localhost\n")
            for name, gateways in names.items():
                file.writelines(f"{GATEWAYS[gateway]} {name}\n" for gateway in gateways)
        self.operator.run("mount", "--bind", path, "/etc/hosts")

    def identity(self, name):
        """The SPIFFE ID of an enrolled device, as its record has it."""
        return re.search(r"spiffe://\S+", self.operator.run(self.binary, "status", name)).group()

    def credential(self, name, namespace):
        """Of a node that is no device; returns its directory."""
        path = os.path.join(self.directory, f"credential-{name}")
        if not os.path.exists(path):
            self.operator.run(self.binary, "ca", "issue", "--id", f"ns/{namespace}/sa/{name}", "--out", path)
        return path

    def start_gateway(self, name):
        """A node that leads to the first device's, and reads nothing of what it carries. Nothing where it runs."""
        running = self.gateways.get(name)
        if running and running.poll() is None:
            return
        machine, namespace = self.network[name], namespace_of(self.identity("device1"))
        path = os.path.join(machine.directory, "node.yaml")
        with open(path, "w") as file:
            file.write(f"""\
identity: {self.credential(name, namespace)}
listeners:
- {{name: hbone, bind: "0.0.0.0:{HBONE_PORT}", protocol: hbone}}
endpoints:
- {{match: "{SERVICE}", address: "{DEVICE1}:{HBONE_PORT}", direct: true}}
- {{match: "device1.{namespace}:*", address: "{DEVICE1}:{HBONE_PORT}", direct: true}}
policy:
- name: lab
  action: ALLOW
  rules:
  - from: [{{namespaces: ["{namespace}"]}}]
    to: [{{ports: [{SERVICE_PORT}, {HBONE_PORT}]}}]
""")
        self.gateways[name] = machine.start(self.binary, "node", "--config", path, log="node.log")
        wait_until(lambda: f":{HBONE_PORT}" in machine.run("ss", "-Hltn"), f"{name} listens")

    def reachable(self, address, port):
        return "SSH-2.0" in self.operator.run("timeout", "5", "ssh-keyscan", "-p", str(port), address, check=False) or \
            self.operator.run("sh", "-c", f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}; head -c 4 <&3'", check=False) == "SSH-"

    def close(self):
        for gateway in self.gateways.values():
            end(gateway)
        for device in self.devices.values():
            device.close()
        self.network.close()


def namespace_of(identity):
    return identity.split("/ns/")[1].split("/")[0]


class Connect:
    """`bootstrap connect` to a device. What it says about its paths, and when, is in `paths`."""

    name = "bootstrap connect"
    # Its streams outlive their path.
    resumes = True
    # Of the first device, where it comes in.
    port = HBONE_PORT

    def __init__(self, world, device="device1", options=(), number=0):
        self.world, self.log = world, os.path.join(world.operator.directory, f"connect-{number}.log")
        with open(self.log, "w") as file:
            self.process = world.operator.start(
                world.binary, "connect", device, "-L", f"{LOCAL_PORT}:localhost:{SERVICE_PORT}", "-v", *options,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.ready()

    def ready(self):
        wait_until(lambda: self.paths() or self.process.poll() is not None, "connect has a path", seconds=40)
        if self.process.poll() is not None:
            raise LabError(f"connect ended with {self.process.returncode}:\n{self.tail()}")

    def paths(self):
        """The paths that carried, in their order."""
        with open(self.log, errors="replace") as file:
            found = re.findall(r"^path (?:\S+ → )?(h2\S*|ssh)\b", file.read().replace(":", " :"), re.MULTILINE)
        return found

    def path(self):
        return (self.paths() or ["none"])[-1]

    def tail(self, lines=30):
        with open(self.log, errors="replace") as file:
            return "".join(file.readlines()[-lines:])

    def pid(self):
        return self.process.pid  # nsenter has become it.

    def close(self):
        end(self.process)


class NodeForward(Connect):
    """A node at the operator that reaches the service through gateways: of the name in `options`."""

    name = "bootstrap node"

    def __init__(self, world, device="device1", options=(), number=0):
        self.world, self.log = world, os.path.join(world.operator.directory, f"node-{number}.log")
        self.admin = os.path.join(world.operator.directory, "admin.sock")
        identity = world.identity(device)
        namespace = namespace_of(identity)
        gateways = ", ".join(f'"spiffe://lab.example/ns/{namespace}/sa/{name}"' for name in GATEWAYS)
        configuration = os.path.join(world.operator.directory, "node.yaml")
        with open(configuration, "w") as file:
            file.write(f"""\
identity: {world.credential("laptop", namespace)}
listeners:
- {{name: in, bind: "127.0.0.1:{LOCAL_PORT}", protocol: tcp, forwardTo: "echo.lab:{SERVICE_PORT}"}}
endpoints:
- match: "echo.lab:{SERVICE_PORT}"
  address: "{SERVICE}"
  via: ["{options[0]}:{HBONE_PORT}"]
  viaIdentity: [{gateways}]
  identity: "{identity}"
  resumable: true
admin: {self.admin}
""")
        with open(self.log, "w") as file:
            self.process = world.operator.start(world.binary, "node", "--config", configuration, stdin=subprocess.DEVNULL,
                                                stdout=file, stderr=file)
        wait_until(lambda: f":{LOCAL_PORT}" in world.operator.run("ss", "-Hltn") or self.process.poll() is not None,
                   "the node listens")
        if self.process.poll() is not None:
            raise LabError(f"the operator's node ended with {self.process.returncode}:\n{self.tail()}")

    def paths(self):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(self.admin)
            connection.request("GET", "/paths")
            peers = json.loads(connection.getresponse().read())["peers"]
        except OSError:
            return []
        finally:
            connection.close()
        return sorted({path["path"] for peer in peers for path in peer["paths"] if path["state"] == "inUse"})


class SSHForward(Connect):
    """`ssh -L`, started again when it ends, as autossh does."""

    name = "ssh -L"
    resumes = False
    port = SSH_PORT

    def __init__(self, world, device="device1", options=(), number=0):
        self.world, self.log = world, os.path.join(world.operator.directory, f"ssh-{number}.log")
        address, port = DEVICES[device]
        ssh = (f"ssh -N -p {port} -o ServerAliveInterval=1 -o ServerAliveCountMax=3 -o ConnectTimeout=3 -o ExitOnForwardFailure=yes "
               f"-o BatchMode=yes -o UserKnownHostsFile={os.path.dirname(world.key)}/known_hosts -i {world.key} "
               f"-L {LOCAL_PORT}:localhost:{SERVICE_PORT} root@{address}")
        # The next run takes the port: ssh has to have gone.
        script = f"trap 'kill $child; wait $child; exit' TERM; while :; do {ssh} & child=$!; wait $child; sleep 0.2; done"
        with open(self.log, "w") as file:
            self.process = world.operator.start("bash", "-c", script, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        wait_until(lambda: f":{LOCAL_PORT}" in world.operator.run("ss", "-Hltn"), "ssh -L listens")

    def paths(self):
        return ["ssh"]


class EnvoyForward(Connect):
    """A pair of Envoys: TCP into CONNECT over mutual TLS and HTTP/2 here, and out of it on the device."""

    name = "Envoy pair"
    resumes = False
    port = envoys.PORT

    def __init__(self, world, device="device1", options=(), number=0):
        if device != "device1":
            raise Skipped("it would need a port of its own that is forwarded")
        self.world, self.log = world, None
        self.pair = envoys.EnvoyPair(world, number, LOCAL_PORT, SERVICE_PORT)
        self.pair.start()
        wait_until(lambda: f":{LOCAL_PORT}" in world.operator.run("ss", "-Hltn"), "Envoy listens")

    def tail(self, lines=30):
        return self.pair.logs()

    def paths(self):
        return ["h2"]

    def close(self):
        for process in self.pair.processes:
            end(process)


class Load:
    """The streams' process (streams.py): commands to it, and its answers."""

    def __init__(self, world, port=LOCAL_PORT):
        self.process = world.operator.start(sys.executable, f"{HERE}/streams.py", str(port), stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, do, timeout=60, **fields):
        try:
            self.process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise LabError("streams.py ended: " + self.process.stderr.read()) from None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            end(self.process)
            raise LabError(f"streams.py gave no answer to '{do}': " + self.process.stderr.read())
        return json.loads(line)

    def close(self):
        end(self.process)
