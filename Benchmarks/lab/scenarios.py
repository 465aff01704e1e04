"""The faults. Each is a function that does it to a run, and says from when the time counts."""

import dataclasses
import json
import signal
from typing import Callable

from machines import DEVICE1, GATEWAYS, HBONE_PORT, OPERATOR, OPERATOR_MOVED, SSH_PORT, LabError, Skipped, wait_until
from tunnels import Connect, NodeForward, kill

HBONE = f"ip daddr {DEVICE1} tcp dport {HBONE_PORT}"
HBONE_ANSWERS = f"ip saddr {DEVICE1} tcp sport {HBONE_PORT}"
SSH = f"ip daddr {DEVICE1} tcp dport {SSH_PORT}"
MULTIPATH = "connections: {multipath: true}\n"


@dataclasses.dataclass
class Scenario:
    name: str
    fault: Callable
    device: str = "device1"
    # How many of the streams live on: "all", or "none" where their far end has died.
    survive: str = "all"
    # What carries the streams, and what it is started with.
    kind: type = Connect
    options: tuple = ()
    # Before that starts, in each run; and after the last one, with the world.
    prepare: Callable = None
    restore: Callable = None
    # The fault for another kind of tunnel; None where it says nothing about it.
    beside: Callable = None
    # At most so many runs: those that take long.
    runs: int = 20
    # The streams, where they are not as many as everywhere: what is told to streams.py.
    loads: tuple = ()
    # It has no fault: what is measured is how long small messages take beside bulk.
    is_latency: bool = False
    # One of the few that continuous integration runs.
    in_ci: bool = False


def refused(run):
    run.network.fault(f"{HBONE} reject with tcp reset", f"{HBONE_ANSWERS} reject with tcp reset")


def dropped_after_handshake(run):
    """TCP connects, and nothing else passes: what a proxy or a firewall does whose way onwards is gone."""
    run.network.fault(f"{HBONE} tcp flags & syn == 0 drop", f"{HBONE_ANSWERS} tcp flags & syn == 0 drop")


def dropped(run):
    run.network.fault(f"{HBONE} drop", f"{HBONE_ANSWERS} drop")


def killed(run):
    if not run.device.node():
        raise Skipped("no node was found on the device")
    run.begin()
    run.device.start_node(run.device.kill_node())


def for_a_while(*rules, seconds=10):
    """What others have no second path for: the fault lasts for some seconds, and the time counts from its begin. In the rules, TO
    and FROM are the packets to the tunnel's port and those that answer them."""
    def beside(kind):
        to, back = f"ip daddr {DEVICE1} tcp dport {kind.port}", f"ip saddr {DEVICE1} tcp sport {kind.port}"

        def fault(run):
            run.network.fault(*(rule.replace("TO", to).replace("FROM", back) for rule in rules))
            run.begin()
            run.pause(seconds)
            run.network.heal()
        return fault
    return beside


def the_same(fault, *kinds):
    """The fault itself, for these kinds only, where there are any."""
    return lambda kind: fault if not kinds or kind.name in kinds else None


def reset(run):
    """ss -K: the kernel ends the sockets as if a reset had come, and sends one to the other side."""
    pattern = f"dport = :{run.kind.port}"
    if not run.world.operator.run("ss", "-Htn", "state", "established", pattern).strip():
        raise LabError(f"no connection to port {run.kind.port} to reset")
    # It prints what it has ended, and nothing where the kernel has no SOCK_DESTROY.
    if str(run.kind.port) not in run.world.operator.run("ss", "-HtnK", pattern):
        raise Skipped("this kernel has no SOCK_DESTROY")


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


def short_certificate(run):
    """The device shows a certificate that ends while the streams run."""
    run.world.operator.run(run.world.binary, "renew", run.scenario.device, "--ttl", "30s")


def certificate_expired(run):
    """Nobody renews it; counted from its end. Nothing may be cut after it, either."""
    status = json.loads(run.world.operator.run(run.world.binary, "status", run.scenario.device, "--json"))
    run.pause(max(0, status[0]["secondsLeft"]) + 1)
    run.begin()
    run.pause(10)


def long_certificate(world):
    """A renewal keeps the lifetime there was, where none is given."""
    world.operator.run(world.binary, "renew", "device1", "--ttl", "24h")


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


def only_gateways(run):
    """Nothing of the operator reaches the device but through a gateway."""
    for name in GATEWAYS:
        run.world.start_gateway(name)
    run.network.stand(f'iifname "router" ip daddr {DEVICE1} drop')


def gateway_in_use(run):
    established = run.world.operator.run("ss", "-Htn", "state", "established", f"dport = :{HBONE_PORT}")
    found = [name for name, address in GATEWAYS.items() if f"{address}:{HBONE_PORT}" in established]
    if len(found) != 1:
        raise LabError(f"connected with {found or 'no gateway'}")
    return found[0]


def gateway_killed(run):
    gateway = run.world.gateways[gateway_in_use(run)]
    run.begin()
    kill(gateway.pid, signal.SIGKILL)
    gateway.wait()


def gateway_dropped(run):
    address = GATEWAYS[gateway_in_use(run)]
    run.network.fault(f"ip daddr {address} drop", f"ip saddr {address} drop")


def long_way(run):
    run.network.lengthen(100)


def dropped_on_the_long_way(run):
    """Between the operator and what makes the way long, which would answer for the device otherwise."""
    run.network.fault(f'iifname "router" {HBONE} drop', chain="raw")


def dropped_standing_by(run):
    """Once the way around is there."""
    established = ("ss", "-Htn", "state", "established", f"dport = :{SSH_PORT}")
    wait_until(lambda: run.world.operator.run(*established).strip(), "the login that stands by")
    run.pause(2)
    dropped_on_the_long_way(run)
    run.begin()


def multipath(run):
    """Both have Multipath TCP, and the operator two addresses that it may use."""
    operator, device = run.world.operator, run.device
    if "--multipath" not in operator.run(run.world.binary, "connect", "--help"):
        raise Skipped("this release has no Multipath TCP")
    try:
        for machine in (operator, device.machine):
            machine.run("ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    except LabError as error:
        raise Skipped(f"no Multipath TCP: {str(error).splitlines()[0]}") from None
    device.configure_node(MULTIPATH, present=True)
    operator.run("sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=1", "net.ipv4.conf.router.promote_secondaries=1",
                 check=False)
    operator.run("sh", "-c", f"ip address del {OPERATOR_MOVED}/24 dev router; ip address add {OPERATOR}/24 dev router; "
                             f"ip address add {OPERATOR_MOVED}/24 dev router; ip route replace default via 10.71.1.1", check=False)
    operator.run("ip", "mptcp", "endpoint", "flush")
    operator.run("ip", "mptcp", "endpoint", "add", OPERATOR_MOVED, "dev", "router", "subflow")


def first_address_gone(run):
    operator = run.world.operator
    operator.run("sh", "-c", f"ip address del {OPERATOR}/24 dev router; ip route replace default via 10.71.1.1")


def no_multipath(world):
    operator = world.operator
    if MULTIPATH not in world.devices["device1"].node_configuration():
        return
    operator.run("ip", "mptcp", "endpoint", "flush", check=False)
    operator.run("sh", "-c", f"ip address add {OPERATOR}/24 dev router; ip address del {OPERATOR_MOVED}/24 dev router; "
                             "ip route replace default via 10.71.1.1", check=False)
    world.devices["device1"].configure_node(MULTIPATH, present=False)


def narrow(run):
    run.network.narrow("10mbit")


def observe(run):
    run.observe(10)


BULK_AND_KEYSTROKES = ({"count": 4, "bytes": 1 << 16, "pause": 0, "window": 1 << 20}, {"count": 20, "bytes": 8, "pause": 0.1})

ALL = [
    Scenario("HBONE port refused", refused, beside=for_a_while("TO reject with tcp reset", "FROM reject with tcp reset")),
    Scenario("HBONE port dropped", dropped, beside=for_a_while("TO drop", "FROM drop"), in_ci=True),
    Scenario("HBONE port dropped, but for TCP's handshake", dropped_after_handshake),
    Scenario("HBONE port dropped one way, from the device", one_way, beside=for_a_while("FROM drop")),
    Scenario("packets above 600 bytes dropped, HBONE port", large_dropped,
             beside=for_a_while("TO meta length > 600 drop", "FROM meta length > 600 drop")),
    Scenario("RST injected (ss -K)", reset, beside=the_same(reset)),
    Scenario("node killed with -9", killed, survive="none", in_ci=True),
    Scenario("node stopped for 5 s, from when it runs again", stopped),
    Scenario("sshd restarted, HBONE port refused", sshd_restarted, prepare=hbone_refused_from_the_start,
             beside=the_same(sshd_restarted, "ssh -L"), in_ci=True),
    Scenario("both dropped for 15 s (SHORT: 3 s), from when SSH is back", both_down, runs=10),
    Scenario("the operator's address changed", address_changed, beside=the_same(address_changed), in_ci=True),
    Scenario("connect asleep for 60 s (SHORT: 5 s), from when it wakes", asleep, runs=5),
    Scenario("the device's certificate expired while connected", certificate_expired, prepare=short_certificate,
             restore=long_certificate, runs=3),
    Scenario("device behind NAT, which forgets its connections", nat_forgets, device="device2",
             beside=the_same(nat_forgets, "ssh -L")),
    Scenario("HBONE port flapping every 2 s, 5 times (SHORT: 2), from the last", flapping, runs=10),
    Scenario("only a gateway reachable: RST injected", reset, kind=NodeForward, options=("gateway.lab",),
             prepare=only_gateways),
    Scenario("two gateways, the one in use killed with -9", gateway_killed, kind=NodeForward, options=("gateways.lab",),
             prepare=only_gateways, in_ci=True),
    Scenario("two gateways, the one in use dropped", gateway_dropped, kind=NodeForward, options=("gateways.lab",),
             prepare=only_gateways),
    Scenario("connect --gateway, twice: the one in use killed with -9", gateway_killed, prepare=only_gateways,
             options=tuple(word for address in GATEWAYS.values() for word in ("--gateway", f"{address}:{HBONE_PORT}"))),
    Scenario("100 ms round trip, HBONE port dropped", dropped_on_the_long_way, prepare=long_way),
    Scenario("100 ms round trip, HBONE port dropped, --standby", dropped_standing_by, prepare=long_way, options=("--standby",)),
    Scenario("Multipath TCP, the operator's address gone", first_address_gone, prepare=multipath, restore=no_multipath,
             options=("--multipath",), runs=5),
    Scenario("link of 10 Mbit/s", observe, prepare=narrow, beside=the_same(observe), loads=BULK_AND_KEYSTROKES, is_latency=True,
             runs=3),
    Scenario("round trip of 100 ms", observe, prepare=long_way, beside=the_same(observe, "ssh -L"), loads=BULK_AND_KEYSTROKES,
             is_latency=True, runs=3),
]
