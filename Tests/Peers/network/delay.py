"""A long link, in user space: relays TCP connections with a delay and a rate in each direction.

    delay.py HOST:PORT [--bind ADDRESS] [--round-trip MS] [--rate BYTES-PER-SECOND]

Prints the port that it listens on, and ends with its standard input. A stand-in for tc-netem, which not every kernel has: it
delays bytes, not packets, so TCP itself sees no distance; what is above TCP does. Like a router, each direction has a queue of
its own, here of 50 ms; when that is full, the sender's TCP waits.
"""

import argparse
import collections
import socket
import sys
import threading
import time

QUEUE_SECONDS = 0.05
CHUNK = 65536


class Direction:
    """Reads from one socket, writes to the other: a thread each, with the bytes in flight between them."""

    def __init__(self, source, sink, delay, rate):
        self.source, self.sink, self.delay, self.rate = source, sink, delay, rate
        self.in_flight = collections.deque()
        self.bytes = 0
        self.capacity = int(rate * (delay + QUEUE_SECONDS)) + CHUNK
        self.changed = threading.Condition()
        for body in (self.read, self.write):
            threading.Thread(target=body, daemon=True).start()

    def read(self):
        link_is_free = 0.0
        while True:
            try:
                data = self.source.recv(CHUNK)
            except OSError:
                data = None
            with self.changed:
                while self.bytes > self.capacity:
                    self.changed.wait()
                link_is_free = max(time.monotonic(), link_is_free) + len(data or b"") / self.rate
                self.in_flight.append((link_is_free + self.delay, data))
                self.bytes += len(data or b"")
                self.changed.notify_all()
            if not data:
                return
            # The queue before the link is full: what comes next waits in the sender.
            excess = link_is_free - time.monotonic() - QUEUE_SECONDS
            if excess > 0:
                time.sleep(excess)

    def write(self):
        while True:
            with self.changed:
                while not self.in_flight:
                    self.changed.wait()
                due, data = self.in_flight.popleft()
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            try:
                if data is None:  # A reset travels as one.
                    for end in (self.source, self.sink):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        end.close()
                    return
                if not data:
                    self.sink.shutdown(socket.SHUT_WR)
                    return
                self.sink.sendall(data)
            except OSError:
                # Nobody takes the rest: the sender must not wait for room.
                data = None
            with self.changed:
                self.bytes = 0 if data is None else self.bytes - len(data)
                self.changed.notify_all()
            if data is None:
                self.source.close()
                return


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--round-trip", type=float, default=100, help="milliseconds")
    parser.add_argument("--rate", type=float, default=125e6, help="bytes per second, each way")
    arguments = parser.parse_args()
    host, _, port = arguments.target.rpartition(":")
    delay = arguments.round_trip / 2000

    listener = socket.create_server((arguments.bind, 0))
    print(listener.getsockname()[1], flush=True)

    def accept():
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection((host, int(port)))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Direction(client, server, delay, arguments.rate)
            Direction(server, client, delay, arguments.rate)

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


main()
