"""A client for echo servers: `exchange.py HOST:PORT SIZE` sends SIZE bytes, ends its side, reads to the end, and prints `ok` if they are the same.

With `--forever` it sends and reads a line every 50 ms instead, prints `flowing` after the first, `flowing again` after one that took
longer than a second, and `cut` or `ended` when that is over."""
import hashlib
import socket
import sys
import threading
import time

host, _, port = sys.argv[1].rpartition(":")
connection = socket.create_connection((host, int(port)), 60)
if sys.argv[2] == "--forever":
    connection.settimeout(None)
    first = True
    try:
        while True:
            begin = time.monotonic()
            connection.sendall(b"still here\n")
            data = connection.recv(4096)
            if not data:
                print("ended", flush=True)
                break
            if first:
                print("flowing", flush=True)
                first = False
            elif time.monotonic() - begin > 1:
                print("flowing again", flush=True)
            time.sleep(0.05)
    except OSError:
        print("cut", flush=True)
    sys.exit(0)
connection.settimeout(60)
sent = hashlib.shake_128(sys.argv[2].encode()).digest(int(sys.argv[2]))


def send():
    try:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass


threading.Thread(target=send, daemon=True).start()
received = hashlib.sha256()
while data := connection.recv(1 << 16):
    received.update(data)
same = received.digest() == hashlib.sha256(sent).digest()
print("ok" if same else "different")
sys.exit(0 if same else 1)
