"""What runs on the machines: an sshd and a node on each device, the operator's CA, `connect`, and `ssh -L` beside it."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import machines
from machines import DEVICE1, FIREWALL, FORWARDED_SSH_PORT, HBONE_PORT, SSH_PORT, LabError, end, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
SERVICE_PORT, LOCAL_PORT = 7007, 7000
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

    def kill_node(self):
        """kill -9. Returns what starts it again."""
        commands = []
        for pid in self.node():
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                commands.append(file.read().decode().rstrip("\0").split("\0"))
            kill(pid, signal.SIGKILL)
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

    def reachable(self, address, port):
        return "SSH-2.0" in self.operator.run("timeout", "5", "ssh-keyscan", "-p", str(port), address, check=False) or \
            self.operator.run("sh", "-c", f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}; head -c 4 <&3'", check=False) == "SSH-"

    def close(self):
        for device in self.devices.values():
            device.close()
        self.network.close()


class Connect:
    """`bootstrap connect` to a device. What it says about its paths, and when, is in `paths`."""

    name = "bootstrap connect"

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


class SSHForward(Connect):
    """`ssh -L`, started again when it ends, as autossh does."""

    name = "ssh -L"

    def __init__(self, world, device="device1", options=(), number=0):
        self.world, self.log = world, os.path.join(world.operator.directory, f"ssh-{number}.log")
        address, port = DEVICES[device]
        ssh = (f"ssh -N -p {port} -o ServerAliveInterval=1 -o ServerAliveCountMax=3 -o ConnectTimeout=3 -o ExitOnForwardFailure=yes "
               f"-o BatchMode=yes -o UserKnownHostsFile={os.path.dirname(world.key)}/known_hosts -i {world.key} "
               f"-L {LOCAL_PORT}:localhost:{SERVICE_PORT} root@{address}")
        script = f"trap 'kill $child; exit' TERM; while :; do {ssh} & child=$!; wait $child; sleep 0.2; done"
        with open(self.log, "w") as file:
            self.process = world.operator.start("bash", "-c", script, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        wait_until(lambda: f":{LOCAL_PORT}" in world.operator.run("ss", "-Hltn"), "ssh -L listens")

    def paths(self):
        return ["ssh"]


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
