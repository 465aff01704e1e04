"""Machines of the lab: network namespaces of this machine, joined by veth pairs, each with mounts of its own.

    operator ── router (NAT) ── firewall ── device1
                                        ├── device2, behind the firewall's NAT: only its SSH port is forwarded
                                        └── gateway1, gateway2

The program runs as the first process of a process namespace of its own (lab.py), so that everything ends with it, however it
ends. A machine lives for as long as the process that holds it.
"""

import os
import signal
import socket
import struct
import subprocess
import time

OPERATOR, OPERATOR_MOVED, DEVICE1, FIREWALL = "10.71.1.2", "10.71.1.3", "10.71.3.2", "10.71.2.2"
GATEWAYS = {"gateway1": "10.71.5.2", "gateway2": "10.71.6.2"}
HBONE_PORT, SSH_PORT, FORWARDED_SSH_PORT = 15008, 22, 2222
LINKS = [("operator", f"{OPERATOR}/24", "router", "10.71.1.1/24"), ("router", "10.71.2.1/24", "firewall", f"{FIREWALL}/24"),
         ("firewall", "10.71.3.1/24", "device1", f"{DEVICE1}/24"), ("firewall", "10.71.4.1/24", "device2", "10.71.4.2/24"),
         ("firewall", "10.71.5.1/24", "gateway1", "10.71.5.2/24"), ("firewall", "10.71.6.1/24", "gateway2", "10.71.6.2/24")]
# (machine, gateway): the firewall does not know the operator's network, as no router of the world does.
ROUTES = [("operator", "10.71.1.1"), ("router", FIREWALL), ("device1", "10.71.3.1"), ("device2", "10.71.4.1"),
          ("gateway1", "10.71.5.1"), ("gateway2", "10.71.6.1")]
NAT_OF_DEVICE2 = f"ip daddr {FIREWALL} tcp dport {FORWARDED_SSH_PORT} dnat to 10.71.4.2:{SSH_PORT}"
LONG_WAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../Tests/Peers/network/delay.py")


class LabError(Exception):
    pass


class Skipped(Exception):
    """This kernel or machine cannot do it."""


def wait_until(condition, what, seconds=30.0, pause=0.02):
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise LabError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)


def end(process, how=signal.SIGTERM, seconds=5):
    """Ends a process that this program has started, by force where it does not go by itself."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Machine:
    """A network namespace and a mount namespace; what runs there is found by it."""

    def __init__(self, name, directory, environment):
        self.name, self.directory, self.environment = name, directory, environment
        os.makedirs(directory, exist_ok=True)
        script = "mkdir -p /run/sshd && ip link set lo up && echo ready && exec sleep infinity"
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True,
                                       env=environment, start_new_session=True)
        if self.holder.stdout.readline() != "ready\n":
            raise LabError(f"{name}: no network namespace of its own")
        self.namespace = os.readlink(f"/proc/{self.holder.pid}/ns/net")

    def command(self, arguments):
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", f"--mount=/proc/{self.holder.pid}/ns/mnt", *arguments]

    def start(self, *arguments, log=None, **options):
        # Ctrl-C and a timeout's SIGTERM go to the whole group: this program is to end the others, in its order.
        options["start_new_session"] = True
        if log:
            with open(os.path.join(self.directory, log), "ab") as file:
                return subprocess.Popen(self.command(arguments), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                        env=self.environment, **options)
        return subprocess.Popen(self.command(arguments), env=self.environment, **options)

    def run(self, *arguments, check=True, seconds=120, text=None):
        done = subprocess.run(self.command(arguments), capture_output=True, text=True, timeout=seconds, env=self.environment,
                              **({"input": text} if text is not None else {"stdin": subprocess.DEVNULL}))
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(arguments)}: {(done.stderr + done.stdout).strip()}")
        return done.stdout

    def rules(self, text):
        self.run("nft", "-f", "-", text=text)

    def processes(self, *words):
        """The pids here whose arguments hold all of these words."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if os.readlink(f"/proc/{entry}/ns/net") != self.namespace:
                    continue
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    arguments = file.read().decode(errors="replace").split("\0")
            except OSError:
                continue
            if arguments[0] != "nsenter" and all(any(word in part for part in arguments) for word in words):
                found.append(int(entry))
        return found

    def forget_connections(self):
        """Empties the table that NAT and filter know connections by, as a router that was switched off and on has."""
        # IPCTNL_MSG_CT_DELETE without a tuple, NLM_F_REQUEST | NLM_F_ACK: all of IPv4. conntrack(8) is not everywhere.
        message = struct.pack("=IHHII4s", 20, 1 << 8 | 2, 5, 1, 0, bytes([socket.AF_INET, 0, 0, 0]))
        script = ("import socket,sys;s=socket.socket(socket.AF_NETLINK,socket.SOCK_RAW,12);s.settimeout(5);"
                  "s.send(bytes.fromhex(sys.argv[1]));a=s.recv(4096);sys.exit(-int.from_bytes(a[16:20],'little',signed=True))")
        self.run("python3", "-c", script, message.hex())


class Network:
    def __init__(self, directory, environment):
        self.machines, self.standing, self.ways = {}, [], []
        for name in ("operator", "router", "firewall", "device1", "device2", *GATEWAYS):
            self.machines[name] = Machine(name, os.path.join(directory, name), environment)
        for near, near_address, far, far_address in LINKS:
            self.join(near, near_address, far, far_address)
        for name, gateway in ROUTES:
            self[name].run("ip", "route", "add", "default", "via", gateway)
        for name in ("router", "firewall"):
            # A packet in the middle of a connection that is not in the table makes no entry: so do the NATs of the world.
            self[name].run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.netfilter.nf_conntrack_tcp_loose=0", check=False)
            self[name].run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        self["router"].rules('table ip nat { chain out { type nat hook postrouting priority srcnat; oifname "firewall" masquerade; }; }')
        self["firewall"].rules(f"""\
table ip nat {{
  chain in {{ type nat hook prerouting priority dstnat; {NAT_OF_DEVICE2}; }}
}}
table inet faults {{
  chain forward {{ type filter hook forward priority 0; }}
  chain raw {{ type filter hook prerouting priority -300; }}
}}""")

    def __getitem__(self, name):
        return self.machines[name]

    def join(self, near, near_address, far, far_address):
        """A wire, whose ends have the name of the machine behind it."""
        self[near].run("ip", "link", "add", far, "type", "veth", "peer", "name", near, "netns", str(self[far].holder.pid))
        for machine, link, address in ((near, far, near_address), (far, near, far_address)):
            self[machine].run("ip", "address", "add", address, "dev", link)
            # Otherwise a filter sees what a real wire never carries: many segments in one.
            self[machine].run("ip", "link", "set", link, "up", "gso_max_segs", "1", "gso_max_size", "1500")

    def fault(self, *rules, chain="forward"):
        """Rules of the packet filter on the firewall. Whatever is there already holds no longer, but what stands for the whole
        run: one change, at once."""
        self["firewall"].rules("\n".join(["flush chain inet faults forward", "flush chain inet faults raw",
                                          *(f"add rule inet faults forward {rule}" for rule in self.standing),
                                          *(f"add rule inet faults {chain} {rule}" for rule in rules)]))

    def stand(self, *rules):
        """Rules that hold until the end of the run, whatever the faults are."""
        self.standing = list(rules)
        self.fault()

    def heal(self):
        self.fault()

    def narrow(self, rate):
        """The way between router and firewall carries so much each way, from a queue of 100 ms, as a DSL line's."""
        for machine, link in (("router", "firewall"), ("firewall", "router")):
            try:
                self[machine].run("tc", "qdisc", "replace", "dev", link, "root", "tbf", "rate", rate, "burst", "16kb",
                                  "latency", "100ms")
            except LabError as error:
                raise Skipped(f"this kernel has no tc-tbf: {str(error).splitlines()[0]}") from None

    def lengthen(self, round_trip):
        """New connections to the first device take so many milliseconds for a round trip, in user space: of HBONE and of SSH."""
        firewall, rules = self["firewall"], [NAT_OF_DEVICE2]
        for port in (HBONE_PORT, SSH_PORT):
            way = firewall.start("python3", LONG_WAY, f"{DEVICE1}:{port}", "--bind", FIREWALL, "--round-trip", str(round_trip),
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.ways.append(way)
            rules.append(f'iifname "router" ip daddr {DEVICE1} tcp dport {port} redirect to :{int(way.stdout.readline())}')
        self.lead(rules)

    def lead(self, rules):
        self["firewall"].rules("\n".join(["flush chain ip nat in", *(f"add rule ip nat in {rule}" for rule in rules)]))

    def restore(self):
        """What `stand`, `narrow` and `lengthen` have changed is as before."""
        self.stand()
        for machine, link in (("router", "firewall"), ("firewall", "router")):
            self[machine].run("tc", "qdisc", "del", "dev", link, "root", check=False)
        if not self.ways:
            return
        self.lead([NAT_OF_DEVICE2])
        for way in self.ways:
            end(way)
            way.stdin.close()
            way.stdout.close()
        self.ways = []

    def close(self):
        for machine in self.machines.values():
            end(machine.holder, signal.SIGKILL)
