#!/usr/bin/env python3
"""How devices come back to a gateway that was restarted: as many nodes as there are devices, each of which holds a connection to it.

    scripts/measure-gateway-restart.py [--devices N] [--binary PATH]

Everything is on loopback. A node takes 3.4 MB of memory of its own. Fails when a device has not come back; never for a time.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

TRUST_DOMAIN = "gateways.example"
WITHIN = 120
STEP = 0.5
# How the gateway ends, and for how many seconds it is away.
RESTARTS = [("in order (SIGTERM)", signal.SIGTERM, 2), ("killed with -9", signal.SIGKILL, 2), ("killed with -9", signal.SIGKILL, 15)]


def identity(name):
    return f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{name}"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Fleet:
    def __init__(self, binary, directory, count):
        self.binary, self.directory, self.count, self.port = binary, directory, count, free_port()
        self.devices, self.gateway = [], None
        environment = dict(os.environ, BOOTSTRAP_HOME=self.path("operator"))

        def run(*arguments):
            done = subprocess.run([binary, *arguments], env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"measure-gateway-restart: {' '.join(arguments)}: {done.stderr.strip()}")

        run("ca", "init", "--trust-domain", TRUST_DOMAIN)
        self.names = [f"device{number}" for number in range(count)]
        for name in ["gateway", *self.names]:
            run("ca", "issue", "--id", f"ns/default/sa/{name}", "--out", self.path(name))
        self.write("gateway", f'listeners:\n- {{name: hbone, bind: "127.0.0.1:{self.port}", protocol: hbone}}\nendpoints:\n' + "".join(
            f'- {{match: "{name}.default:*", address: "127.0.0.1:*", reverse: true, identity: "{identity(name)}"}}\n'
            for name in self.names))
        for name in self.names:
            self.write(name, f'reverse:\n- {{gateway: "127.0.0.1:{self.port}", identity: "{identity("gateway")}"}}\n')

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, configuration):
        with open(self.path(f"{name}.yaml"), "w") as file:
            file.write(f"identity: {self.path(name)}\n{configuration}")

    def node(self, name):
        with open(self.path(f"{name}.log"), "a") as log:
            return subprocess.Popen([self.binary, "node", "--config", self.path(f"{name}.yaml")], stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=log)

    def start(self):
        self.gateway = self.node("gateway")
        self.devices = [self.node(name) for name in self.names]

    def held(self):
        listing = subprocess.run(["ss", "-Htn", "state", "established", f"sport = :{self.port}"], capture_output=True, text=True,
                                 check=True)
        return len(listing.stdout.splitlines())

    def come_back(self):
        """How many hold a connection, and when; until all of them do."""
        began, seen = time.monotonic(), []
        while not seen or seen[-1][1] < self.count:
            seen.append((time.monotonic() - began, self.held()))
            if seen[-1][0] > WITHIN:
                sys.exit(f"measure-gateway-restart: {seen[-1][1]} of {self.count} devices hold a connection after {WITHIN} s")
            time.sleep(0.1)
        return seen

    def restart(self, how, away):
        self.gateway.send_signal(how)
        self.gateway.wait()
        time.sleep(away)
        self.gateway = self.node("gateway")
        return self.come_back()

    def processor_time(self):
        with open(f"/proc/{self.gateway.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        running = [process for process in [*self.devices, self.gateway] if process]
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def reached(seen, share):
    return next(when for when, count in seen if count >= share * seen[-1][1])


def busiest(seen):
    """The most that came within a step."""
    return max(count - max((earlier for when, earlier in seen if when <= now - STEP), default=0) for now, count in seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--binary", default=".build/release/bootstrap")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-restart-") as directory:
        fleet = Fleet(os.path.abspath(chosen.binary), directory, chosen.devices)
        try:
            fleet.start()
            fleet.come_back()
            print("| the gateway ends | away, s | half are back after, s | 9 of 10 | all | most in half a second | gateway's CPU, s |")
            print("|---|---|---|---|---|---|---|")
            for name, how, away in RESTARTS:
                seen = fleet.restart(how, away)
                print(f"| {name} | {away} | {reached(seen, 0.5):.1f} | {reached(seen, 0.9):.1f} | {seen[-1][0]:.1f} | {busiest(seen)} | "
                      f"{fleet.processor_time():.2f} |", flush=True)
                time.sleep(3)
        finally:
            fleet.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
