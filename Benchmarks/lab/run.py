"""One run of a scenario: streams, fault, the time until bytes flow, sums."""

import sys
import time

from machines import LabError, wait_until
from tunnels import Connect, Load

# Streams that have not carried a byte within this time after a fault are what the sums make of them.
FLOW_WITHIN = 100.0
PLAIN = {"bytes": 2048, "pause": 0.2}


class Run:
    """What a fault acts on. `began` is when the time starts to count."""

    def __init__(self, world, scenario, loads, number, short, kind=Connect):
        self.world, self.network, self.scenario, self.short = world, world.network, scenario, short
        self.device, self.number, self.kind = world.devices[scenario.device], number, kind
        self.loads, self.count = loads, sum(load["count"] for load in loads)
        self.began, self.tunnel, self.load, self.rate = None, None, None, None

    def begin(self):
        """From now on time counts, and so do the bytes that are sent from now on."""
        self.began = time.monotonic()
        self.load.ask("mark")

    def observe(self, seconds):
        """No fault: so long a time of bulk and keystrokes."""
        self.begin()
        before = self.load.ask("state")["bulk"]
        started = time.monotonic()
        time.sleep(seconds)
        self.rate = (self.load.ask("state")["bulk"] - before) / (time.monotonic() - started)

    def pause(self, seconds):
        """Part of a fault, not a wait for something: the device is away for so long."""
        time.sleep(seconds)

    def measure(self, fault):
        before_counts = self.device.counts()
        if self.scenario.prepare:
            self.scenario.prepare(self)
        self.tunnel = self.kind(self.world, self.scenario.device, self.scenario.options, self.number)
        self.load = Load(self.world)
        for load in self.loads:
            self.load.ask("open", **(PLAIN | load))
        wait_until(lambda: self.load.ask("state")["silent"] == 0, "every stream carries bytes", seconds=60, pause=0.1)
        # Two pauses of each stream: more than the first bytes is on the way.
        time.sleep(0.5)
        before = self.tunnel.path()
        started = time.monotonic()
        fault(self)
        if self.began is None:
            # The fault was one change; it holds by now.
            self.load.ask("mark")
            self.began = started
        dies = self.scenario.survive == "none" or not self.kind.resumes
        if dies:
            self.load.ask("probe")
        state = self.wait(dies)
        after = self.tunnel.path()
        result = self.load.ask("finish", timeout=60, seconds=40)
        ends = self.device_ends(before_counts, dies)
        times = sorted([state["probe"]] if dies and state["probe"] else state["flowing"])
        return {
            "before": before, "after": after, "streams": self.count, "whole": result["whole"],
            "lost": result["lost"], "bytes": result["bytes"], "keystrokes": result["keystrokes"], "ends": ends,
            "first": times[0] - self.began if times else None, "last": times[-1] - self.began if times else None,
            "longest": state["longest"], "rate": self.rate,
        }

    def wait(self, dies):
        """Until every stream flows again or is lost, and where the streams die, until a new one flows."""
        deadline = time.monotonic() + FLOW_WITHIN
        while True:
            state = self.load.ask("state")
            flows = len(state["flowing"]) + len(state["lost"]) >= self.count
            if (state["probe"] and not (state["alive"] and self.kind.resumes) if dies else flows) or time.monotonic() > deadline:
                return state
            time.sleep(0.05)

    def device_ends(self, before, dies):
        """How the streams ended for the service on the device, once all have."""
        def ended():
            now = self.device.counts()
            return now["clean"] + now["reset"] - before["clean"] - before["reset"] >= self.count and now
        try:
            now = wait_until(ended, "the service sees the streams end", seconds=70 if dies else 20)
        except LabError:
            now = self.device.counts()
        return {name: now[name] - before[name] for name in now}

    def close(self):
        try:
            self.network.restore()
        except LabError as error:
            # Not raised: it would take the place of what ended the run, Ctrl-C too.
            print(f"lab: {error}", file=sys.stderr, flush=True)
        for part in (self.load, self.tunnel):
            if part:
                part.close()
        for part in (self.load and self.load.process.stdin, self.load and self.load.process.stdout):
            if part:
                part.close()
