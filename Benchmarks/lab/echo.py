"""The service on a device: sends back what it gets, and counts how its connections ended. Usage: echo.py PORT COUNTS

COUNTS is a file that is replaced whenever a number changes: `opened clean reset`.
"""

import os
import selectors
import socket
import sys

BUFFERED = 1 << 18
counts = {"opened": 0, "clean": 0, "reset": 0}


class Connection:
    def __init__(self, peer):
        self.peer, self.waiting, self.ended = peer, bytearray(), False


def write_counts(path):
    with open(path + ".new", "w") as file:
        file.write(" ".join(str(value) for value in counts.values()))
    os.replace(path + ".new", path)


def step(selector, connection, events):
    """Returns how the connection ended, or None."""
    try:
        if events & selectors.EVENT_READ and not connection.ended and len(connection.waiting) < BUFFERED:
            data = connection.peer.recv(65536)
            connection.waiting += data
            connection.ended = not data
        if connection.waiting:
            del connection.waiting[:connection.peer.send(connection.waiting)]
    except BlockingIOError:
        pass
    except OSError:
        return "reset"
    if connection.ended and not connection.waiting:
        return "clean"
    wanted = 0 if connection.ended or len(connection.waiting) >= BUFFERED else selectors.EVENT_READ
    selector.modify(connection.peer, wanted | (selectors.EVENT_WRITE if connection.waiting else 0) or selectors.EVENT_WRITE, connection)
    return None


def main():
    port, path = int(sys.argv[1]), sys.argv[2]
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ, None)
    write_counts(path)
    while True:
        changed = False
        for key, events in selector.select():
            if key.data is None:
                peer, _ = listener.accept()
                peer.setblocking(False)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(peer, selectors.EVENT_READ, Connection(peer))
                counts["opened"], changed = counts["opened"] + 1, True
                continue
            outcome = step(selector, key.data, events)
            if outcome:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                counts[outcome], changed = counts[outcome] + 1, True
        if changed:
            write_counts(path)


main()
