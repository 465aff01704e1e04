"""The faults. Each is a function that does it to a run, and says from when the time counts."""

import dataclasses
import signal
import time
from typing import Callable

from machines import DEVICE1, HBONE_PORT, OPERATOR, OPERATOR_MOVED, SSH_PORT, Skipped
from tunnels import SERVICE_PORT

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


ALL = [
    Scenario("HBONE port refused", refused, beside=for_a_while(f"{SSH} reject with tcp reset")),
    Scenario("HBONE port dropped", dropped, beside=for_a_while(f"{SSH} drop")),
    Scenario("node killed with -9", killed, survive="none"),
]
