#!/usr/bin/env python3
"""A TCP service that moves bytes and says what it saw, and its client: what the demonstration sends through the mesh.

    checksum_service.py serve PORT_FILE           listens on 127.0.0.1, writes its port to PORT_FILE
    checksum_service.py up   HOST PORT BYTES      sends BYTES, compares the server's checksum with its own
    checksum_service.py down HOST PORT BYTES      receives BYTES, compares its checksum with the server's
    checksum_service.py echo HOST PORT TEXT       sends TEXT, expects it back

Exit status 0 only when every byte arrived.
"""
import hashlib
import os
import socket
import sys
import threading
import time

CHUNK = 1 << 18


def block(index):
    """256 KiB that no other index has, cheap enough not to be what is measured."""
    return BASE[8:] + index.to_bytes(8, "big")


BASE = os.urandom(CHUNK)


def send(connection, total):
    digest = hashlib.blake2b(digest_size=16)
    index = 0
    while total:
        piece = block(index)[: min(CHUNK, total)]
        connection.sendall(piece)
        digest.update(piece)
        total -= len(piece)
        index += 1
    return digest.hexdigest()


def receive(connection, total):
    digest = hashlib.blake2b(digest_size=16)
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while total:
        count = connection.recv_into(view[: min(CHUNK, total)])
        if not count:
            raise SystemExit(f"the connection ended with {total} bytes missing")
        digest.update(view[:count])
        total -= count
    return digest.hexdigest()


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise SystemExit("the connection ended before the answer came")
        line += byte
    return line.decode().strip()


def serve_one(connection):
    with connection:
        try:
            answer(connection)
        except (OSError, SystemExit):
            pass  # the client is gone, which it knows best itself


def answer(connection):
    verb, _, argument = read_line(connection).partition(" ")
    if verb == "up":
        connection.sendall(f"{receive(connection, int(argument))}\n".encode())
    elif verb == "down":
        connection.sendall(f"{send(connection, int(argument))}\n".encode())
    elif verb == "echo":
        connection.sendall(f"{argument}\n".encode())


def serve(port_file):
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    with open(port_file + ".new", "w") as file:
        file.write(str(listener.getsockname()[1]))
    os.rename(port_file + ".new", port_file)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_one, args=(connection,), daemon=True).start()


def client(verb, host, port, argument):
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(f"{verb} {argument}\n".encode())
        if verb == "echo":
            answer = read_line(connection)
            if answer != argument:
                raise SystemExit(f"sent {argument!r}, got {answer!r}")
            return
        total = int(argument)
        start = time.monotonic()
        mine = send(connection, total) if verb == "up" else receive(connection, total)
        theirs = read_line(connection)
        seconds = time.monotonic() - start
        if mine != theirs:
            raise SystemExit(f"checksums differ: {mine} here, {theirs} there")
        print(f"{verb:4} {total / (1 << 20):,.0f} MiB in {seconds:.2f} s, {total / seconds / 1e6:,.0f} MB/s, checksum {mine} on both sides")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "serve":
        serve(sys.argv[2])
    elif len(sys.argv) == 5 and sys.argv[1] in ("up", "down", "echo"):
        client(*sys.argv[1:])
    else:
        sys.exit(__doc__)
