#!/usr/bin/env python3
"""Says something byte by byte: each goes when the other side has read the one before, so that it can be cut anywhere.

    bytewise.py PORT HEX...     each piece is said when something came in answer to the one before; prints all that came, in hexadecimal

A connection that the other side ends earlier ends this, too.
"""

import socket
import struct
import sys


def unread(client):
    """How many bytes the other end, which is on this machine, has in its socket (sock_diag(7)); None: it is not there any more."""
    (here, ours), (there, theirs) = client.getsockname(), client.getpeername()
    addresses = socket.inet_aton(there) + bytes(12) + socket.inet_aton(here) + bytes(12)
    # Of any state, by address alone.
    wanted = struct.pack("=BBBxIHH", socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF, socket.htons(theirs), socket.htons(ours))
    wanted += addresses + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(wanted), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + wanted)
        answer = kernel.recv(65536)
    if struct.unpack("=IH", answer[:6])[1] != SOCK_DIAG_BY_FAMILY:
        return None
    return struct.unpack("=I", answer[16 + 4 + 48 + 4:][:4])[0]


NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST = 4, 20, 1
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
            while unread(client):
                pass
    # A server that reads an end in the middle of its handshake may reset, and a reset overtakes what it has answered.
    came += client.recv(65536)
    client.shutdown(socket.SHUT_WR)
    while data := client.recv(65536):
        came += data
except OSError as error:
    print("failed", error, file=sys.stderr)
print(came.hex())
