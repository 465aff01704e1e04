#!/usr/bin/env python3
"""Says something byte by byte: each goes when the other side has read the one before, so that it can be cut anywhere.

    bytewise.py PORT HEX...     each piece is said when something came in answer to the one before; prints all that came, in hexadecimal

A connection that the other side ends earlier ends this, too.
"""

import socket
import sys


def is_read(client):
    """Whether the other end, which is on this machine, has taken all out of its socket."""
    ours, theirs = client.getsockname()[1], client.getpeername()[1]
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[1].endswith(f":{theirs:04X}") and fields[2].endswith(f":{ours:04X}"):
                return fields[4].endswith(":00000000")
    return True


client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
came = b""
try:
    for number, piece in enumerate(sys.argv[2:]):
        if number:
            data = client.recv(65536)
            if not data:
                break
            came += data
        for byte in bytes.fromhex(piece):
            client.sendall(bytes([byte]))
            while not is_read(client):
                pass
    client.shutdown(socket.SHUT_WR)
    while data := client.recv(65536):
        came += data
except OSError as error:
    print("failed", error, file=sys.stderr)
print(came.hex())
