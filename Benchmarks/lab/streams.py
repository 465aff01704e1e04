"""Live streams of random traffic through a forward to the echo service, in the operator's network. Usage: streams.py PORT

Commands are lines of JSON on standard input, answers the same on standard output:

    {"do": "open", "count": N, "bytes": B, "pause": S, "window": W}
                                    N streams more; each sends up to B random bytes every S seconds, about, and has about W at most
                                    on the way
    {"do": "mark"}                  bytes that are sent from now on were sent after the fault
    {"do": "state"}                 how many flow again, how many are lost; times are those of CLOCK_MONOTONIC
    {"do": "probe"}                 a new stream: opened at once, and again until a byte has come back
    {"do": "finish", "seconds": S}  each ends its direction, waits for the rest, and the sums are compared
"""

import hashlib
import json
import os
import random
import selectors
import socket
import sys
import time

# What a stream may have on the way: enough for a pause of a second, little enough for 200 of them.
ON_THE_WAY = 1 << 16
PROBE_PAUSE = 0.05
# Streams with messages of so many bytes at most are keystrokes.
SMALL = 64


class Stream:
    def __init__(self, address, size, pause, window):
        self.size, self.pause, self.window = size, pause, window
        self.sent, self.received = 0, 0
        self.sums = hashlib.sha256(), hashlib.sha256()
        self.waiting = b""
        self.next = time.monotonic() + random.random() * pause
        self.last, self.longest = None, 0.0
        self.mark, self.flowing = None, None
        self.finishing = self.ended = False
        self.lost = None
        self.latencies, self.asked = [], []
        self.socket = socket.create_connection(address, timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    @property
    def whole(self):
        return self.ended and self.lost is None and self.sent == self.received and self.sums[0].digest() == self.sums[1].digest()

    def lose(self, why):
        self.lost, self.ended = why, True
        self.socket.close()

    def write(self, now):
        if not self.waiting and now >= self.next and not self.finishing and self.sent - self.received < self.window:
            self.waiting = os.urandom(random.randint(1, self.size))
            self.next = now + self.pause * (0.5 + random.random())
            self.asked.append((self.sent + len(self.waiting), now))
        if not self.waiting:
            return
        try:
            count = self.socket.send(self.waiting)
        except BlockingIOError:
            return
        self.sums[0].update(self.waiting[:count])
        self.sent += count
        self.waiting = self.waiting[count:]
        if not self.waiting and self.finishing:
            self.socket.shutdown(socket.SHUT_WR)

    def read(self, now):
        data = self.socket.recv(65536)
        if not data:
            if self.finishing and self.received == self.sent and not self.waiting:
                self.ended = True
                self.socket.close()
            else:
                self.lose(f"a clean end after {self.received} of {self.sent} bytes")
            return
        self.sums[1].update(data)
        self.received += len(data)
        if self.mark is not None and self.last is not None:
            self.longest = max(self.longest, now - self.last)
        self.last = now
        while self.asked and self.asked[0][0] <= self.received:
            self.latencies.append(now - self.asked.pop(0)[1])
        if self.mark is not None and self.flowing is None and self.received > self.mark:
            self.flowing = now

    def finish(self):
        self.finishing = True
        if not self.ended and not self.waiting:
            self.socket.shutdown(socket.SHUT_WR)


class Probe:
    """A new stream, tried until one carries a byte each way."""

    def __init__(self, address):
        self.address, self.socket, self.flowing, self.retry = address, None, None, 0.0
        self.deadline = 0.0

    def step(self, now):
        if self.flowing or now < self.retry:
            return
        if self.socket is None:
            self.socket = socket.socket()
            self.socket.setblocking(False)
            self.socket.connect_ex(self.address)
            self.asked, self.deadline = False, now + 20
        try:
            if not self.asked:
                self.socket.send(b"?")
                self.asked = True
            if self.socket.recv(1):
                self.flowing = now
            else:
                raise ConnectionError
        except (BlockingIOError, OSError) as error:
            pending = isinstance(error, BlockingIOError) or getattr(error, "errno", None) == 107
            if pending and now < self.deadline:
                return
            self.retry = now + PROBE_PAUSE
        self.socket.close()
        self.socket = None


class Load:
    def __init__(self, port):
        self.address = ("127.0.0.1", port)
        self.streams, self.probe = [], None
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ, None)
        os.set_blocking(0, False)
        self.commands = b""
        self.finishing = None

    def answer(self, **fields):
        print(json.dumps(fields), flush=True)

    def state(self):
        self.answer(
            streams=len(self.streams), flowing=[s.flowing for s in self.streams if s.flowing is not None],
            alive=sum(not s.ended for s in self.streams), lost=[s.lost for s in self.streams if s.lost],
            probe=self.probe and self.probe.flowing, longest=max([s.longest for s in self.streams], default=0.0),
            silent=sum(s.received == 0 for s in self.streams), sent=sum(s.sent for s in self.streams),
            bulk=sum(s.received for s in self.streams if s.size > SMALL))

    def command(self, what):
        if what["do"] == "open":
            for _ in range(what["count"]):
                stream = Stream(self.address, what["bytes"], what["pause"], what.get("window", ON_THE_WAY))
                self.streams.append(stream)
                self.selector.register(stream.socket, selectors.EVENT_READ, stream)
            self.state()
        elif what["do"] == "mark":
            now = time.monotonic()
            for stream in self.streams:
                stream.mark, stream.flowing, stream.longest, stream.last = stream.sent, None, 0.0, now
                stream.latencies.clear()
            self.state()
        elif what["do"] == "probe":
            self.probe = Probe(self.address)
            self.state()
        elif what["do"] == "state":
            self.state()
        elif what["do"] == "finish":
            self.finishing = time.monotonic() + what["seconds"]
            for stream in self.streams:
                try:
                    stream.finish()
                except OSError as error:
                    stream.lose(f"reset: {error.strerror}")

    def read_commands(self):
        data = os.read(0, 65536)
        if not data:
            sys.exit(0)
        *lines, self.commands = (self.commands + data).split(b"\n")
        for line in lines:
            self.command(json.loads(line))

    def finished(self, now):
        if self.finishing is None or any(not s.ended for s in self.streams) and now < self.finishing:
            return False
        for stream in self.streams:
            if not stream.ended:
                stream.lose(f"no end; {stream.received} of {stream.sent} bytes had come back")
        small = [latency for s in self.streams if s.size <= SMALL for latency in s.latencies]
        self.answer(whole=sum(s.whole for s in self.streams), streams=len(self.streams),
                    lost=[s.lost or "sums differ" for s in self.streams if not s.whole],
                    bytes=sum(s.received for s in self.streams), keystrokes=small)
        return True

    def run(self):
        while True:
            for key, _ in self.selector.select(0.005):
                if key.data is None:
                    self.read_commands()
                elif not key.data.ended:
                    self.touch(key.data, key.data.read)
            now = time.monotonic()
            for stream in self.streams:
                if not stream.ended:
                    self.touch(stream, stream.write)
            if self.probe:
                self.probe.step(now)
            if self.finished(now):
                return

    def touch(self, stream, action):
        try:
            action(time.monotonic())
        except BlockingIOError:
            return
        except OSError as error:
            stream.lose(f"reset: {error.strerror}")
        if stream.ended:
            self.selector.unregister(stream.socket)


Load(int(sys.argv[1])).run()
