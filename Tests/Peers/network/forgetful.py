#!/usr/bin/env python3
"""A way to a server that is lost on one side only: FORGETFUL.PY HOST:PORT.

Prints the port that it listens on, then obeys its standard input, a word a line:
cut      the clients' connections are reset; the server's stay open, and silent
release  the server's connections of those clients end, too
"""

import socket
import struct
import sys
import threading

host, port = sys.argv[1].rsplit(":", 1)
lock = threading.Lock()
pairs, kept = [], []


def pump(source, sink, pair):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    with lock:
        if pair not in pairs:
            return
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def accept(listener):
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((host, int(port)))
        pair = (client, server)
        with lock:
            pairs.append(pair)
        threading.Thread(target=pump, args=(client, server, pair), daemon=True).start()
        threading.Thread(target=pump, args=(server, client, pair), daemon=True).start()


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
threading.Thread(target=accept, args=(listener,), daemon=True).start()
for line in sys.stdin:
    with lock:
        if line.strip() == "cut":
            for client, server in pairs:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.shutdown(socket.SHUT_RD)
                client.close()
                kept.append(server)
            pairs.clear()
        else:
            for server in kept:
                server.shutdown(socket.SHUT_RDWR)
            kept.clear()
