"""An SFTP server (version 3) that breaks off, goes on for ever, or says nothing. As `Subsystem sftp` of an sshd:

    hostile.py endless    a directory that has more names whenever it is asked
    hostile.py empty      a directory whose names come without end, none at a time
    hostile.py mute       answers nothing
    hostile.py stalled    answers the greeting, and nothing else
"""

import struct
import sys

INIT, VERSION, LSTAT, OPENDIR, READDIR, STAT = 1, 2, 7, 11, 12, 17
STATUS, HANDLE, NAME, ATTRS = 101, 102, 104, 105
mode = sys.argv[1]


def string(data):
    return struct.pack(">I", len(data)) + data


def answer(kind, body):
    sys.stdout.buffer.write(string(bytes([kind]) + body))
    sys.stdout.buffer.flush()


# A regular file, and nothing else is known of it.
attributes = struct.pack(">II", 4, 0o100644)
count = 1000
name = b"x" * 200
names = struct.pack(">I", count) + (string(name) + string(b"") + attributes) * count

while True:
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        break
    body = sys.stdin.buffer.read(struct.unpack(">I", head)[0])
    kind, number = body[0], body[1:5]
    if mode == "mute":
        continue
    if kind == INIT:
        answer(VERSION, struct.pack(">I", 3))
    elif mode == "stalled":
        continue
    elif kind in (STAT, LSTAT):
        answer(ATTRS, number + struct.pack(">II", 4, 0o040755))
    elif kind == OPENDIR:
        answer(HANDLE, number + string(b"directory"))
    elif kind == READDIR:
        answer(NAME, number + (names if mode == "endless" else struct.pack(">I", 0)))
    else:
        answer(STATUS, number + struct.pack(">I", 0) + string(b"") + string(b""))
