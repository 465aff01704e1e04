#!/usr/bin/env python3
"""Connections by the thousand that never come to anything, and clients that go in the middle.

    flood.py hold PORT COUNT HEX            opens COUNT connections, each says HEX and no more; prints `held COUNT`, also of
                                            those that the front has ended since; ends with stdin
    flood.py drip PORT COUNT HEX            says HEX, and then byte after byte without an end; prints `ended COUNT` when all were ended
    flood.py pour PORT COUNT HEX            one after the other says HEX and then without an end `a`; prints how many bytes were taken
                                            at most before the front had enough
    flood.py refused PORT COUNT HEX         says HEX, and reads to the end; prints how many were reset: `refused COUNT`
    flood.py abort PORT COUNT HEX           says HEX, reads a little, and goes: by turns resets, closes, ends its direction first
"""

import errno
import os
import resource
import selectors
import socket
import struct
import sys
import threading

# What else is tested at the same time, on the same few processors, has deadlines.
os.nice(10)

what, port, count, beginning = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), bytes.fromhex(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect():
    client = socket.create_connection(("127.0.0.1", port), 60)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def hold():
    clients = []
    for _ in range(count):
        try:
            clients.append(connect())
            clients[-1].sendall(beginning)
        except OSError as error:
            # It had to go already.
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.EINVAL):
                raise
    print("held", count, flush=True)
    sys.stdin.buffer.read()
    for client in clients:
        client.close()


def drip():
    selector = selectors.DefaultSelector()
    for _ in range(count):
        client = connect()
        client.sendall(beginning)
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
    ended = 0
    while ended < count:
        for key, _ in selector.select(0.05):
            try:
                if key.fileobj.recv(65536):
                    continue
            except OSError:
                pass
            selector.unregister(key.fileobj)
            key.fileobj.close()
            ended += 1
        for key in list(selector.get_map().values()):
            try:
                key.fileobj.send(b"a")
            except OSError:
                # Read the next time.
                pass
    print("ended", ended, flush=True)


def pour():
    most = 0
    for _ in range(count):
        client = connect()
        client.sendall(beginning)
        taken = 0
        # What the kernel holds for a front that reads no more is not taken by it, and has its bound there.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        try:
            while taken < 64 << 20:
                taken += client.send(b"a" * 4096)
        except OSError:
            pass
        most = max(most, taken)
        client.close()
    print("taken", most, flush=True)


def in_parallel(work):
    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def refused():
    resets = [0] * 8

    def work(first):
        for _ in range(first, count, 8):
            # The front may be faster than this program, so that connecting fails already.
            with socket.socket() as client:
                try:
                    client.connect(("127.0.0.1", port))
                    client.sendall(beginning)
                    while client.recv(65536):
                        pass
                except ConnectionError:
                    resets[first] += 1

    in_parallel(work)
    print("refused", sum(resets), flush=True)


def abort():
    failures = []

    def work(first):
        try:
            for index in range(first, count, 8):
                client = connect()
                client.sendall(beginning)
                client.recv(1 + 9973 * index % 60000)
                if index % 3 == 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif index % 3 == 1:
                    client.shutdown(socket.SHUT_WR)
                client.close()
        except OSError as error:
            failures.append(error)

    in_parallel(work)
    print("aborted", count - len(failures), *failures, flush=True)


{"hold": hold, "drip": drip, "pour": pour, "refused": refused, "abort": abort}[what]()
os._exit(0)
