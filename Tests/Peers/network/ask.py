"""Connects and prints in one line what comes of it.

    ask.py ADDRESS PORT [--udp] [--uid N] [--gid N] [--seconds S]
"""

import argparse
import errno
import os
import socket

arguments = argparse.ArgumentParser()
arguments.add_argument("address")
arguments.add_argument("port", type=int)
arguments.add_argument("--udp", action="store_true")
arguments.add_argument("--uid", type=int)
arguments.add_argument("--gid", type=int)
arguments.add_argument("--seconds", type=float, default=20)
options = arguments.parse_args()
family, kind, _, _, address = socket.getaddrinfo(
    options.address, options.port, type=socket.SOCK_DGRAM if options.udp else socket.SOCK_STREAM)[0]
# Everything is imported by now: another user may not read Python's files.
if options.gid is not None:
    os.setgid(options.gid)
if options.uid is not None:
    os.setuid(options.uid)
client = socket.socket(family, kind)
client.settimeout(options.seconds)
try:
    client.connect(address)
    if options.udp:
        client.send(b"?")
        print(client.recv(100).decode())
    else:
        said = b""
        while not said.endswith(b"\n"):
            more = client.recv(100)
            if not more:
                break
            said += more
        print(said.decode().strip() or "end")
except socket.timeout:
    print("silence")
except OSError as error:
    print(errno.errorcode[error.errno])
