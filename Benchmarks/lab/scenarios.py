"""The faults. Each is a function that does it to a run, and says from when the time counts."""

import dataclasses
import signal
from typing import Callable

from machines import DEVICE1, HBONE_PORT, OPERATOR, OPERATOR_MOVED, SSH_PORT, LabError, Skipped

HBONE = f"ip daddr {DEVICE1} tcp dport {HBONE_PORT}"
HBONE_ANSWERS = f"ip saddr {DEVICE1} tcp sport {HBONE_PORT}"
SSH = f"ip daddr {DEVICE1} tcp dport {SSH_PORT}"


@dataclasses.dataclass
class Scenario:
    name: str
    fault: Callable
    device: str = "device1"
    # How many of the streams live on: "all", or "none" where their far end has died.
    survive: str = "all"
    # Before `connect` starts.
    prepare: Callable = None
    # The same for `ssh -L`; None where it says nothing about it.
    beside: Callable = None
    options: tuple = ()
    # At most so many runs: those that take long.
    runs: int = 20
    load: dict = dataclasses.field(default_factory=dict)


def refused(run):
    run.network.fault(f"{HBONE} reject with tcp reset", f"{HBONE_ANSWERS} reject with tcp reset")


def dropped(run):
    run.network.fault(f"{HBONE} drop", f"{HBONE_ANSWERS} drop")


def killed(run):
    commands = run.device.kill_node()
    if not commands:
        raise Skipped("no node was found on the device")
    run.begin()
    run.device.start_node(commands)


def for_a_while(*rules, seconds=10):
    """What `ssh -L` has no second path for: the fault lasts for some seconds, and the time counts from its begin."""
    def fault(run):
        run.network.fault(*rules)
        run.begin()
        run.pause(seconds)
        run.network.heal()
    return fault


def reset(run):
    """ss -K: the kernel ends the sockets as if a reset had come, and sends one to the other side."""
    pattern = f"dst {DEVICE1} dport = {HBONE_PORT}"
    if not run.world.operator.run("ss", "-Htn", "state", "established", pattern).strip():
        raise LabError("no HBONE connection to reset")
    # It prints what it has ended, and nothing where the kernel has no SOCK_DESTROY.
    if str(HBONE_PORT) not in run.world.operator.run("ss", "-HtnK", pattern):
        raise Skipped("this kernel has no SOCK_DESTROY")


def reset_ssh(run):
    run.world.operator.run("ss", "-K", f"dst {DEVICE1} dport = {SSH_PORT}")


def one_way(run):
    run.network.fault(f"{HBONE_ANSWERS} drop")


def large_dropped(run):
    run.network.fault(f"{HBONE} meta length > 600 drop", f"{HBONE_ANSWERS} meta length > 600 drop")


def stopped(run):
    """The node answers nothing for five seconds, on any path; counted from when it runs again."""
    run.device.signal_node(signal.SIGSTOP)
    run.pause(5)
    run.device.signal_node(signal.SIGCONT)
    run.begin()


def hbone_refused_from_the_start(run):
    run.network.fault(f"{HBONE} reject with tcp reset")


def sshd_restarted(run):
    run.device.stop_sshd()
    run.begin()
    run.device.start_sshd()


def both_down(run):
    run.network.fault(f"{HBONE} drop", f"{HBONE_ANSWERS} drop", f"{SSH} drop", f"ip saddr {DEVICE1} tcp sport {SSH_PORT} drop")
    run.pause(3 if run.short else 15)
    run.network.fault(f"{HBONE} drop", f"{HBONE_ANSWERS} drop")
    run.begin()


def address_changed(run):
    operator = run.world.operator
    new = OPERATOR_MOVED if OPERATOR in operator.run("ip", "-4", "address", "show", "dev", "router") else OPERATOR
    old = OPERATOR if new == OPERATOR_MOVED else OPERATOR_MOVED
    operator.run("sh", "-c", f"ip address del {old}/24 dev router; ip address add {new}/24 dev router; "
                             "ip route replace default via 10.71.1.1")


def asleep(run):
    run.tunnel.process.send_signal(signal.SIGSTOP)
    run.pause(5 if run.short else 60)
    run.tunnel.process.send_signal(signal.SIGCONT)
    run.begin()


def nat_forgets(run):
    run.network["firewall"].forget_connections()


def flapping(run):
    run.begin()
    for _ in range(2 if run.short else 5):
        dropped(run)
        run.pause(2)
        run.network.heal()
        run.pause(2)
    run.begin()


ALL = [
    Scenario("HBONE port refused", refused, beside=for_a_while(f"{SSH} reject with tcp reset")),
    Scenario("HBONE port dropped", dropped, beside=for_a_while(f"{SSH} drop")),
    Scenario("HBONE port dropped one way, from the device", one_way,
             beside=for_a_while(f"ip saddr {DEVICE1} tcp sport {SSH_PORT} drop")),
    Scenario("packets above 600 bytes dropped, HBONE port", large_dropped),
    Scenario("RST injected (ss -K)", reset, beside=reset_ssh),
    Scenario("node killed with -9", killed, survive="none"),
    Scenario("node stopped for 5 s, from when it runs again", stopped),
    Scenario("sshd restarted, HBONE port refused", sshd_restarted, prepare=hbone_refused_from_the_start, beside=sshd_restarted),
    Scenario("both dropped for 15 s (SHORT: 3 s), from when SSH is back", both_down, runs=10),
    Scenario("the operator's address changed", address_changed, beside=address_changed),
    Scenario("connect asleep for 60 s (SHORT: 5 s), from when it wakes", asleep, runs=5),
    Scenario("device behind NAT, which forgets its connections", nat_forgets, device="device2", beside=nat_forgets),
    Scenario("HBONE port flapping every 2 s, 5 times (SHORT: 2), from the last", flapping, runs=10),
]
